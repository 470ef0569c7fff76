// Greedy decode steps of a Llama-family model, for up to eight sequences, as one persistent kernel.
//
// One block runs on each multiprocessor. Every matrix is dealt out in tiles of 16 rows, and what one block reads in a
// step lies in memory as one stream in the order of its reading (stream.py), copied ahead through a ring in shared
// memory (ring.cuh). A layer is five phases: norm and q, k, v | norms and rotation of heads, attention | o | norm, gate
// and up | down. After the layers come norm, lm_head and the argmax. Between two phases the blocks hand numbers on to
// one another in words that say whether they are there (exchange.cuh); nothing else synchronises them. Every block keeps
// the whole residual in float32 registers and adds to it what o and down send.
//
// All blocks must run at once: as many as there are multiprocessors, one on each. The plain reference is forward.py.

#include "sizes.cuh"
#include "device.cuh"
#include "arguments.cuh"

#define Q_SIZE (HEADS * HEAD_DIM)
#define KV_SIZE (KV_HEADS * HEAD_DIM)
#define QKV_SIZE (Q_SIZE + 2 * KV_SIZE)
#define HEAD_TILES ((VOCAB + 15) / 16)
#define O_INPUTS (Q_SIZE / O_PARTS)
#define DOWN_INPUTS (INTER / DOWN_PARTS)
#define MOST_PARTS (O_PARTS > DOWN_PARTS ? O_PARTS : DOWN_PARTS)

#include "few.cuh"
#include "ring.cuh"
#include "producer.cuh"
#include "portion.cuh"
#include "exchange.cuh"
#include "planes.cuh"
#include "tile.cuh"
#include "product.cuh"

// The products of a layer in their order, and lm_head's.
enum { QKV, O, GATE_UP, DOWN, HEAD, NUM_PRODUCTS };

// What a block multiplies: tiles `first` to `first` + `count` of each matrix. A tile of o or down is one of a part of the
// inputs: those of the first part come first, and a block has tiles of one part only. O_PARTS are 1 or the key heads: then
// a block attends for its part itself, as long as the context is short and there is one sequence, and needs no other block
// for it. A block that multiplies nothing is for attention alone. `head_offset` is where in its stream lm_head begins.
struct Share {
  int first[NUM_PRODUCTS], count[NUM_PRODUCTS];
  int num_granules, head_offset;
};

// The kernel's arguments, pointers first.
#define STEP(FIELD)                                                                                                   \
  FIELD(const u8*, streams)      /* [blocks] streams, one after another */                                            \
  FIELD(const Share*, shares)    /* [blocks] */                                                                       \
  FIELD(const u16*, embedding)   /* [VOCAB][HIDDEN]; not read where TIED */                                           \
  FIELD(const u16*, norms)       /* [2 * LAYERS + 1][HIDDEN]: input and post norm of each layer, then the last norm */ \
  FIELD(const u16*, qkv_bias)    /* [LAYERS][QKV_SIZE]; not read without QKV_BIAS */                        \
  FIELD(const u16*, qk_norms)    /* [LAYERS][2][HEAD_DIM]; not read without QK_NORM */                                \
  FIELD(const float*, cos_sin)   /* [2][context][HEAD_DIM / 2] */                                                     \
  FIELD(u16*, keys)              /* [LAYERS][SEQUENCES][KV_HEADS][context][HEAD_DIM] */                               \
  FIELD(u16*, values)            /* [LAYERS][SEQUENCES][KV_HEADS][context / CHUNK][HEAD_DIM][CHUNK] */                  \
  FIELD(u64*, qkv)               /* packets: [SEQUENCES][QKV_SIZE] */                                                 \
  FIELD(u64*, attended)          /* quads: [O_PARTS][O_INPUTS / 32][SEQUENCES][8] */                                      \
  FIELD(u64*, from_o)            /* quads: [O_PARTS][HIDDEN / 32][SEQUENCES][8] */                                        \
  FIELD(u64*, inner)             /* quads: [DOWN_PARTS][DOWN_INPUTS / 32][SEQUENCES][8] */                                \
  FIELD(u64*, from_down)         /* quads: [DOWN_PARTS][HIDDEN / 32][SEQUENCES][2][SPREAD, the first][4] */                \
  FIELD(u64*, parts)             /* packets: [SEQUENCES][HEADS][max_splits][HEAD_DIM + 2] */                          \
  FIELD(u64*, best)              /* [SEQUENCES][blocks, rounded up to even]: a block's largest logit and its row */    \
  FIELD(float*, logits)          /* [SEQUENCES][VOCAB] */                                                             \
  FIELD(int*, token)             /* [SEQUENCES]: to read first; replaced by those chosen last */                      \
  FIELD(int*, position)          /* of these; moves on */                                                             \
  FIELD(int*, output)            /* [SEQUENCES][context + 1]: the tokens chosen, by their positions */                \
  FIELD(u64*, times)             /* [1 + num_steps]: when the first began and each ended, nanoseconds by the GPU */   \
  FIELD(u32*, steps_done)        /* since what blocks exchange was cleared */                                         \
  FIELD(u32*, stamps)            /* [blocks][LAYERS + 1][NUM_PRODUCTS][PLACES], cycles; only with PROFILE */          \
  FIELD(int, stream_granules)    /* from one block's stream to the next */                                            \
  FIELD(int, context)            /* positions in cos_sin and in the cache, a multiple of 32 */                        \
  FIELD(int, max_splits)         /* in `parts` */                                                                     \
  FIELD(int, multiplying)        /* blocks that multiply: the first ones */                                           \
  FIELD(int, num_steps)          /* to take in this launch */                                                         \
  FIELD(int, keep_logits)        /* whether `logits` are written */

struct Step {
  STEP(AS_MEMBER)
};

// How one of the products is done.
template <int which>
struct Product {
  static constexpr int bits = which == HEAD ? HEAD_BITS : BITS;
  static constexpr int inputs = which == O ? O_INPUTS : which == DOWN ? DOWN_INPUTS : HIDDEN;
  static constexpr int most = which == QKV         ? MOST_QKV
                              : which == O       ? MOST_O
                              : which == GATE_UP ? MOST_GATE_UP
                              : which == DOWN    ? MOST_DOWN
                                                 : MOST_HEAD;
  static constexpr int batch = which == QKV         ? BATCH_QKV
                               : which == O       ? BATCH_O
                               : which == GATE_UP ? BATCH_GATE_UP
                               : which == DOWN    ? BATCH_DOWN
                                                  : BATCH_HEAD;
  static constexpr bool norm = which == QKV || which == GATE_UP || which == HEAD;  // it multiplies a normed residual
  static constexpr int unit = which == HEAD ? HEAD_UNIT : which == O ? O_UNIT : UNIT;
  using T = Tile<bits, inputs, unit>;
  static constexpr bool own_norm = norm && unit == UNIT;  // a warp norms what it multiplies
  static constexpr bool planes = in_planes(bits, inputs, unit, most), normed_planes = planes && own_norm;
  // Whether what is known of its planes is put down beside the products.
  static constexpr bool late = normed_planes && T::template small_for_all<most, batch> && T::template together<most>;
};

// Whether the weights of o are waited for with those of q, k and v: a block that attends for itself has nothing to wait
// for before o.
#define O_WITH_QKV                                                                                    \
  (SEQUENCES == 1 && O_PARTS > 1 && Product<QKV>::T::template small<MOST_QKV, BATCH_QKV> &&           \
   Product<O>::T::template small<MOST_O, BATCH_O> &&                                                  \
   2 * (MOST_QKV * Product<QKV>::T::bytes + MOST_O * Product<O>::T::bytes) <= RING)

#include "attention.cuh"
#include "results.cuh"

#define LONGER(a, b) ((a) > (b) ? (a) : (b))
#define LONGEST LONGER(LONGER(HIDDEN, O_INPUTS), DOWN_INPUTS)

struct Shared {
  u64 full[NUM_GRANULES], empty[NUM_GRANULES];
  u64 best[THREADS / ROWS];
  u32 under_way;
  Share share;
  // Of q, k and v's norms and the last; of gate and up's, of even and of odd layers. A warp that is behind may still read
  // what it met with the others for, and they meet once more before that is written again.
  alignas(16) float squares[3][8][8];  // by columns and warps
  alignas(16) u32 x[SEQUENCES * vector_words(LONGEST)];  // what the present phase multiplies by, 16 bits each
  Fixed fixed[SEQUENCES == 1 ? (LONGEST + 63) / 64 : 1];
  union {
    alignas(16) float sums[SUMS_HALVES * TILES * TILE_SUMS];
    AttentionScratch attention;
  };
};

// When a block's first thread reached a place of a product in the last step, for finding out where the time goes.
#define PLACES 10
#if PROFILE
DEVICE void stamp(const Step& s, int layer, int which, int place) {
  if (thread() == 0) s.stamps[((block() * (LAYERS + 1) + layer) * NUM_PRODUCTS + which) * PLACES + place] = cycles();
}
#else
DEVICE void stamp(const Step&, int, int, int) {}
#endif

// ---- the residual -------------------------------------------------------------------------------------------------

// A thread has numbers of one sequence, `column`.
#define NEIGHBOURS (COLUMNS == 1 ? 4 : 8)
using Hidden = Portion<HIDDEN, UNIT, NEIGHBOURS>;
#define EACH Hidden::each

#define HEADROOM 0.0625f
// Whether the two parts of down are added and norm weights applied in 16 bits, as transformers does, two numbers at a time:
// several sequences have many of them.
#define IN_PAIRS (SEQUENCES > 1 && !BF16)

struct Residual {
  float at[EACH][NEIGHBOURS];
  // What scales the numbers before they are multiplied, near what RMSNorm would: see `scaled`.
  float guess, unguess;  // and 1 over it

  DEVICE void set_guess(float reciprocal_rms) {
    guess = reciprocal_rms * HEADROOM;
    unguess = divide_fast(1.0f, guess);
  }

  template <int parts, int apart>
  DEVICE void add(const u64* from, u32 tag) {
    u64 quads[EACH * parts][NEIGHBOURS / 4];
    from += spread<apart>(quad_place(column(), (u32)Hidden::first() / 4));
    receive<Quads>(
        quads, tag,
        [&](int k) { return from + spread<apart>(SEQUENCES * (k % parts * HIDDEN + Hidden::distance(k / parts)) / 4); },
        [&](int k) { return Hidden::has(k / parts); });
    UNROLL
    for (int i = 0; i < EACH; ++i)
      UNROLL
      for (int j = 0; j < NEIGHBOURS; j += 2) {
        const auto two = [&](int p) { return (u32)(quads[i * parts + p][j / 4] >> 16 * j % 64); };
        if (IN_PAIRS && parts == 2) {
          const u32 sum = pair_sum(two(0), two(1));
          at[i][j] += low(sum), at[i][j + 1] += high(sum);
          continue;
        }
        UNROLL
        for (int p = 0; p < parts; ++p) at[i][j] += low(two(p)), at[i][j + 1] += high(two(p));
      }
  }

  // The sum of its squares over the warp's part, for `reciprocal_rms`, in BESIDE_STEPS steps; one lane of each column
  // writes it.
  DEVICE void square(int step, float& sum, float (&to)[8][8]) const {
    if (step == 0) {
      sum = 0;
      UNROLL
      for (int i = 0; i < EACH; ++i)
        UNROLL
        for (int j = 0; j < NEIGHBOURS; ++j) sum = fmaf(at[i][j], at[i][j], sum);
    } else if (step < 6) {
      const int flip = 1 << (step - 1);
      if (flip < 4 || flip >= 4 * COLUMNS) sum += from_lane(sum, flip);
    } else if (step == 6) {
      if (lane() % 4 == 0 && lane() < 4 * COLUMNS) to[column()][warp()] = sum;
    }
  }
};

// 1 over the root of the mean square of this thread's sequence, when all warps have found their squares.
DEVICE float reciprocal_rms(const float (&squares)[8][8]) {
  static_assert(WARPS <= 8, "as many squares are kept");
  float of[WARPS];
  neighbours(squares[column()], of);
  return reciprocal_root(total(of) * (1.0f / HIDDEN) + (float)EPS);
}

// Numbers in 16 bits each, four a word.
template <int neighbours>
DEVICE void packed(const float (&v)[neighbours], u64 (&words)[neighbours / 4]) {
  UNROLL
  for (int j = 0; j < neighbours; j += 4) words[j / 4] = (u64)pack(v[j + 2], v[j + 3]) << 32 | pack(v[j], v[j + 1]);
}
DEVICE void unpacked(u64 word, float (&v)[4]) {
  const u32 a = (u32)word, b = (u32)(word >> 32);
  v[0] = low(a), v[1] = high(a), v[2] = low(b), v[3] = high(b);
}

struct NormWeights {
  u64 at[EACH][NEIGHBOURS / 4];

  DEVICE void load(const u16* from) {
    from += (u32)Hidden::first();
    UNROLL
    for (int i = 0; i < EACH; ++i)
      UNROLL
      for (int j = 0; j < NEIGHBOURS / 4; ++j)
        at[i][j] = Hidden::has(i) ? load_constant((const u64*)(from + Hidden::distance(i)) + j) : 0;
  }
};

// RMSNorm (arXiv 1910.07467) in float32, then 16 bits, into x: times the weights here, and divided by the root of the mean
// square only when the products are summed, for the whole block must have met for that. So that 16 bits suffice the
// numbers are scaled by a guess until then, what the layer before had to be scaled by, and HEADROOM: a residual may
// grow by a factor of a million within a layer before it overflows, and what is too small is rounded to a millionth of it.
DEVICE void scaled(const Residual& r, float guess, const NormWeights& weights, float (&x)[EACH][NEIGHBOURS]) {
  UNROLL
  for (int i = 0; i < EACH; ++i)
    UNROLL
    for (int j = 0; j < NEIGHBOURS; j += 2) {
      const u32 two = (u32)(weights.at[i][j / 4] >> 16 * (j % 4));
      x[i][j] = r.at[i][j] * guess * low(two), x[i][j + 1] = r.at[i][j + 1] * guess * high(two);
    }
}

// The same in 16 bits.
DEVICE void scaled(const Residual& r, float guess, const NormWeights& weights, u64 (&x)[EACH][NEIGHBOURS / 4]) {
  if constexpr (IN_PAIRS) {
    UNROLL
    for (int i = 0; i < EACH; ++i)
      UNROLL
      for (int j = 0; j < NEIGHBOURS / 4; ++j) {
        const float* four = r.at[i] + 4 * j;
        const u64 w = weights.at[i][j];
        const u32 a = pair_product(pack(four[0] * guess, four[1] * guess), (u32)w);
        const u32 b = pair_product(pack(four[2] * guess, four[3] * guess), (u32)(w >> 32));
        x[i][j] = (u64)b << 32 | a;
      }
  } else {
    float numbers[EACH][NEIGHBOURS];
    scaled(r, guess, weights, numbers);
    UNROLL
    for (int i = 0; i < EACH; ++i) packed(numbers[i], x[i]);
  }
}

DEVICE const u8* stream_of(const Step& s, int block) { return s.streams + (u64)block * s.stream_granules * GRANULE; }

// Numbers 2i and 2i + 1 of a token's embedding. A tied one is read where lm_head lies, in some block's stream.
DEVICE void embedded(const Step& s, int token, int i, float& x, float& y) {
#if TIED
  using T = Tile<HEAD_BITS, HIDDEN, HEAD_UNIT>;
  const int tile = token / 16, row = token % 16, k = 2 * i;
  const int owner = (int)(((u64)(tile + 1) * s.multiplying - 1) / HEAD_TILES);
  const Share& share = s.shares[owner];
  const int index = tile - share.first[HEAD], in_batch = index % BATCH_HEAD, first = index - in_batch;
  const int n = share.count[HEAD] - first < BATCH_HEAD ? share.count[HEAD] - first : BATCH_HEAD;
  const u8* at = stream_of(s, owner) + share.head_offset + (u64)first * T::bytes;
  const u8* unit = at + (k / HEAD_UNIT * n + in_batch) * T::unit_bytes;
  const int in_unit = k % HEAD_UNIT, lane_of = 4 * (row % 8) + k % 32 / 8;
#if HEAD_BITS == 16
  unit += in_unit / 32 * 1024 + k % 8 / 4 * 512 + 16 * lane_of + k % 4 / 2 * 8 + row / 8 * 4;
  const u32 two = load_constant((const u32*)unit);
  x = low(two), y = high(two);
#else
  const u16 two = load_constant((const u16*)(unit + in_unit / 32 * 512 + 16 * lane_of + row / 8 * 8 + k % 8));
  const float* scales = (const float*)(at + n * T::units * T::unit_bytes) + in_batch * 16;
  const float scale = load_constant(scales + row);
  x = ((int)(two & 255) - 128) * scale, y = ((int)(two >> 8) - 128) * scale;
#endif
#else
  const u32 two = load_constant((const u32*)(s.embedding + (u64)token * HIDDEN) + i);
  x = low(two), y = high(two);
#endif
}

// ---- lm_head ------------------------------------------------------------------------------------------------------

// The largest that the threads of a sequence's groups have; every thread gets those of all sequences.
DEVICE void block_most(u64 v, u64 (&most)[SEQUENCES], Shared& m) {
  UNROLL
  for (int d = ROWS / 2; d; d /= 2) {
    const u64 other = from_lane(v, d);
    v = other > v ? other : v;
  }
  if (thread() % ROWS == 0) m.best[group()] = v;
  block_sync();
  UNROLL
  for (int b = 0; b < SEQUENCES; ++b) {
    most[b] = 0;
    UNROLL
    for (int k = b; k < ONE_SEQUENCE; k += SEQUENCES) most[b] = m.best[k] > most[b] ? m.best[k] : most[b];
  }
}

// The row with the largest logit of all blocks, for each sequence; `best` is the largest of this thread's rows and its
// group's sequence, `tag` the number of the step. What the block wrote into the cache before thread 0's last fence is seen
// by all after it.
DEVICE void choose(const Step& s, u64 best, u32 tag, int (&token)[SEQUENCES], Shared& m) {
  constexpr int apart = ONE_SEQUENCE / SEQUENCES * ROWS, at_once = (SEQUENCES + 2) / 2;
  const int pairs = (num_blocks() + 1) / 2, sequence = group() % SEQUENCES;
  u64 most[SEQUENCES];
  block_most(best, most, m);
  if (thread() == 0) {
    UNROLL
    for (int b = 0; b < SEQUENCES; ++b) {
      u64* to = s.best + b * 2 * pairs + block();
      store_packet(to, most[b] | (tag & 1));
      if (block() + 1 == num_blocks() && num_blocks() % 2) store_packet(to + 1, most[b] | (tag & 1));  // nobody's
    }
  }
  best = 0;
  const int first = group() < ONE_SEQUENCE ? group() / SEQUENCES * ROWS + thread() % ROWS : pairs;
  for (int from = first; from < pairs; from += at_once * apart) {
    u64 words[at_once][2];
    receive_alone<Quads>(words, tag, [&](int k) {
      const int pair = from + k * apart;
      return pair < pairs ? s.best + 2 * (sequence * pairs + pair) : 0;
    });
    UNROLL
    for (int k = 0; k < at_once; ++k)
      UNROLL
      for (int j = 0; j < 2; ++j) best = words[k][j] > best ? words[k][j] : best;
  }
  fence_all_blocks();
  block_sync();  // everybody has read m.best
  block_most(best, most, m);
  UNROLL
  for (int b = 0; b < SEQUENCES; ++b) token[b] = row_of(most[b]);
}

// ---- the kernel ---------------------------------------------------------------------------------------------------

DEVICE bool attends_itself(int splits) { return SEQUENCES == 1 && O_PARTS > 1 && splits == 1; }

// Into m.x, one sequence's vector after another's.
template <class Own, int each, int words>
DEVICE void keep(const u64 (&mine)[each][words], u32* x, int row) {
  x += column() * row + (u32)Own::first() / 2;
  UNROLL
  for (int k = 0; k < each; ++k) {
    if (!Own::has(k)) continue;
    u32* const to = x + Own::distance(k) / 2;
    if constexpr (words == 1) *(u64*)to = mine[k][0];
    else *(Words*)to = {(u32)mine[k][0], (u32)(mine[k][0] >> 32), (u32)mine[k][1], (u32)(mine[k][1] >> 32)};
  }
}

// A warp's portion of a product's vector into planes in m.x.
template <class P, class Own>
DEVICE void put_units(const float (&numbers)[Own::each][4], Shared& m) {
  PlaneSums<Own::each> sums;
  put_planes<P::bits, P::unit, Own>(numbers, m.x, sums);
  put_fixed<P::unit, Own>(sums, m.fixed);
}

// The same, where it lies in m.x in 16 bits.
template <class P>
DEVICE void into_planes(Shared& m) {
  using Own = Portion<P::inputs, P::unit, 4>;
  float numbers[Own::each][4];
  UNROLL
  for (int k = 0; k < Own::each; ++k)
    unpacked(Own::has(k) ? *(const u64*)(m.x + (Own::first() + Own::distance(k)) / 2) : 0, numbers[k]);
  warp_sync();
  put_units<P, Own>(numbers, m);
}

// The residual with what has been sent, normed, into m.x. `sums` are for `late` planes.
template <int which>
DEVICE void normed_vector(
    const Step& s, const NormWeights& weights, Residual& r, Shared& m, PlaneSums<EACH>& sums, int layer, int count,
    u32 tag) {
  using P = Product<which>;
  if (which == GATE_UP) r.add<O_PARTS, 1>(s.from_o, tag);
  else if (layer) r.add<DOWN_PARTS, SPREAD>(s.from_down, tag - 1);
  stamp(s, layer, which, 1);
  if (which != GATE_UP && !count) return;  // of gate and up every block has some
  if constexpr (P::normed_planes) {
    float mine[EACH][NEIGHBOURS];
    scaled(r, 1.0f, weights, mine);
    put_planes<P::bits, P::unit, Hidden>(mine, m.x, sums);
    if constexpr (!P::late) put_fixed<P::unit, Hidden>(sums, m.fixed);
  } else {
    u64 words[EACH][NEIGHBOURS / 4];
    scaled(r, r.guess, weights, words);
    keep<Hidden>(words, m.x, vector_words(HIDDEN));
    if constexpr (!P::own_norm) block_sync();  // other warps' portions
    if constexpr (P::planes) into_planes<P>(m);
  }
  warp_sync();
}

// What other blocks have sent for o or down, into m.x.
template <int which>
DEVICE void received_vector(const Step& s, Shared& m, u32 tag) {
  using P = Product<which>;
  using Own = Portion<P::inputs, P::unit, P::planes ? 4 : 8>;
  const int part = m.share.first[which] / (HIDDEN / 16);
  const u64* from = quad_of<P::inputs>(
      which == O ? s.attended : s.inner, column(), part * (P::inputs / 4) + (u32)Own::first() / 4);
  u64 mine[Own::each][P::planes ? 1 : 2];
  receive<Quads>(mine, tag, [&](int k) { return from + SEQUENCES * Own::distance(k) / 4; }, Own::has);
  if constexpr (P::planes) {
    float numbers[Own::each][4];
    UNROLL
    for (int k = 0; k < Own::each; ++k) unpacked(Own::has(k) ? mine[k][0] : 0, numbers[k]);
    put_units<P, Own>(numbers, m);
  } else {
    keep<Own>(mine, m.x, vector_words(P::inputs));
  }
  warp_sync();
}

// What a product multiplies by, into m.x; where a block attends for itself, o's is there already, in 16 bits. A warp sees
// to its own portion.
template <int which>
DEVICE void vector_of(
    const Step& s, const NormWeights& weights, Residual& r, Shared& m, PlaneSums<EACH>& sums, int layer, int splits,
    int count, u32 tag) {
  using P = Product<which>;
  if constexpr (P::norm) {
    normed_vector<which>(s, weights, r, m, sums, layer, count, tag);
  } else if (count) {
    if (which != O || !attends_itself(splits)) received_vector<which>(s, m, tag);
    else if constexpr (P::planes) into_planes<P>(m), warp_sync();
    stamp(s, layer, which, 1);
  }
}

// One of the products from its vector's arrival to its results' departure. Returns the largest logit.
template <int which>
DEVICE u64 product(
    const Step& s, Ring& ring, Sums& sums, Residual& r, Shared& m, int layer, int splits, u32 tag) {
  using P = Product<which>;
  using T = typename P::T;
  const int first = m.share.first[which], count = m.share.count[which];
  Results<which> results = {s, layer, first, count, tag};
  stamp(s, layer, which, 0);
  delay();
  // While the vector is still under way.
  NormWeights weights;
  if constexpr (P::norm) weights.load(s.norms + (u32)((2 * layer + (which == GATE_UP)) * HIDDEN));
  if constexpr (which == QKV && O_WITH_QKV) {
    ring.wait(count * T::bytes + m.share.count[O] * Product<O>::T::bytes);
  } else if (count && !(which == O && O_WITH_QKV)) {
    const int at_first = P::most <= P::batch || count < P::batch ? count : P::batch;
    ring.wait((u32)(at_first * T::segment) * T::unit_bytes + (T::units <= T::segment ? at_first * T::end_bytes : 0));
  }
  results.prepare();
  Ahead<T, P::most, P::batch> ahead;
  ahead.find(ring, sums, count);
  const Pace pace = {&m.under_way};
  sums.may_be_written();
  PlaneSums<EACH> plane_sums;
  vector_of<which>(s, weights, r, m, plane_sums, layer, splits, count, tag);
  pace.multiplying();
  delay();
  stamp(s, layer, which, 2);
  const auto mark = [&](int place) { stamp(s, layer, which, place); };
  auto& squares = m.squares[which == GATE_UP ? 1 + layer % 2 : 0];
  float sum;
  const auto beside = [&](int step) {
    if constexpr (P::norm) r.square(step, sum, squares);
    if constexpr (P::late)
      if (step == 2) put_fixed<P::unit, Hidden>(plane_sums, m.fixed);
  };
  float wanted = 1;  // of `column`
  const auto met = [&] {
    if constexpr (P::norm) {
      wanted = reciprocal_rms(squares);
      results.scale_by(P::normed_planes ? wanted : wanted * r.unguess);
    }
  };
  multiply<P::bits, P::inputs, P::unit, P::planes, P::most, P::batch, which == GATE_UP>(
      ring, {m.x, m.fixed}, count, sums, ahead, mark, beside, met, results);
  stamp(s, layer, which, 8);
  if (which == GATE_UP) r.set_guess(wanted);
  pace.waiting();
  return results.best;
}

// What this block attends to: its own part of o's inputs, or one of the parts that all blocks share.
DEVICE Duty duty_of(const Shared& m, int position) {
  const int splits = num_splits(position + 1), tiles = HIDDEN / 16, first = m.share.first[O];
  const bool itself = attends_itself(splits);
  const int part = num_blocks() - 1 - block();
  const int head = !itself ? part / splits : m.share.count[O] ? first / tiles : KV_HEADS;
  const int split = itself ? 0 : part % splits;
  return {head, split, splits, !itself || first % tiles == 0, span_of(split, splits, position)};
}

// A layer's attention. Where the block attends for itself it is left to the caller to append what comes back.
DEVICE NewNumbers attention(const Step& s, Shared& m, const Duty& duty, int layer, int position, u32 tag) {
  delay();
  u32* const x = attends_itself(duty.splits) ? m.x : 0;
  NewNumbers fresh = {0, 0};
  NO_UNROLL
  for (int head = duty.head; head < KV_HEADS * SEQUENCES; head += num_blocks()) {
    const Part part(s, duty, layer, head);
    fresh = attend(s, layer, part, position, tag, x, m.attention);
    if (!x) append(part, position, fresh);
  }
  if (duty.splits == 1) return fresh;
  if (block() < s.multiplying)
    for (int piece = block(); piece < SEQUENCES * HEADS * JOINS; piece += s.multiplying)
      join(s, piece, duty.splits, tag, m.attention);
  if (duty.head < KV_HEADS * SEQUENCES) fetch_ahead(Part(s, duty, layer + 1 < LAYERS ? layer + 1 : 0, duty.head));
  return fresh;
}

// The residual begins as the token's embedding, and the first layer's guess is right.
DEVICE void begin(const Step& s, const int (&token)[SEQUENCES], Residual& r, Shared& m) {
  int mine = token[0];
  UNROLL
  for (int b = 1; b < SEQUENCES; ++b) mine = column() == b ? token[b] : mine;
  UNROLL
  for (int i = 0; i < EACH; ++i)
    UNROLL
    for (int j = 0; j < NEIGHBOURS; j += 2) {
      r.at[i][j] = r.at[i][j + 1] = 0;
      const u32 place = Hidden::first() + Hidden::distance(i) + j;
      if (Hidden::has(i)) embedded(s, mine, place / 2, r.at[i][j], r.at[i][j + 1]);
    }
  float sum;
  all_steps([&](int step) { r.square(step, sum, m.squares[2]); });
  block_sync();
  r.set_guess(reciprocal_rms(m.squares[2]));
}

DEVICE void decode(const Step& s, Ring& ring, Sums& sums, Shared& m) {
  int token[SEQUENCES], position = *s.position;
  UNROLL
  for (int b = 0; b < SEQUENCES; ++b) token[b] = s.token[b];
  const u32 epoch = *s.steps_done;
  const bool multiplies = block() < s.multiplying;
  if (block() == 0 && thread() == 0) s.times[0] = nanoseconds();
  NO_UNROLL
  for (int step = 0; step < s.num_steps; ++step, ++position) {
    u32 tag = (epoch + step) * LAYERS + 1;
    const Duty duty = duty_of(m, position);
    const int splits = duty.splits;
    u64 best = 0;
    if (multiplies) {
      Residual r;
      begin(s, token, r, m);
      NO_UNROLL
      for (int layer = 0; layer < LAYERS; ++layer, ++tag) {
        product<QKV>(s, ring, sums, r, m, layer, splits, tag);
        const NewNumbers fresh = attention(s, m, duty, layer, position, tag);
        product<O>(s, ring, sums, r, m, layer, splits, tag);
        if (attends_itself(splits) && duty.head < KV_HEADS) append(Part(s, duty, layer, duty.head), position, fresh);
        product<GATE_UP>(s, ring, sums, r, m, layer, splits, tag);
        product<DOWN>(s, ring, sums, r, m, layer, splits, tag);
      }
      if (thread() == 0) fence_all_blocks();  // here nobody waits for it
      best = product<HEAD>(s, ring, sums, r, m, LAYERS, splits, tag);
    } else if (ATTENDING) {
      NO_UNROLL
      for (int layer = 0; layer < LAYERS; ++layer, ++tag) attention(s, m, duty, layer, position, tag);
      if (thread() == 0) fence_all_blocks();
    }
    choose(s, best, epoch + step + 1, token, m);
    stamp(s, LAYERS, HEAD, 9);
    if (block() == 0 && thread() == 0) {
      UNROLL
      for (int b = 0; b < SEQUENCES; ++b) s.output[b * (s.context + 1) + position + 1] = token[b];
      s.times[step + 1] = nanoseconds();
    }
    ring.next_step(m.share.num_granules);
  }
  if (block() == 0 && thread() == 0) {
    UNROLL
    for (int b = 0; b < SEQUENCES; ++b) s.token[b] = token[b];
    *s.position = position, *s.steps_done = epoch + s.num_steps;
  }
}

KERNEL decode_steps(PARAMETERS(STEP)) {
  const Step s = {STEP(AS_VALUE)};
  u8* bytes = dynamic_shared();
  Shared& m = *(Shared*)(bytes + RING + TAIL);
  if (thread() == 0) {
    m.share = s.shares[block()], m.under_way = IN_FLIGHT;
    for (int i = 0; i < NUM_GRANULES; ++i) mbarrier_init(m.full + i, 1), mbarrier_init(m.empty + i, WARPS);
    mbarrier_init_done();
  }
  block_sync_all();
  if (thread() >= THREADS) {
    if (RESTLESS || thread() == THREADS)
      produce<Copier>(
          bytes, m.full, m.empty, {&m.under_way}, stream_of(s, block()), m.share.num_granules,
          m.share.head_offset / GRANULE, s.num_steps);
    return;
  }
  Ring ring = {bytes, m.full, m.empty, 0, 0, 0, 0, 0};
  Sums sums = {m.sums, 0};
  decode(s, ring, sums, m);
}
