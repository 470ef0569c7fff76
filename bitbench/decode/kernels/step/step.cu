// Greedy decode steps of a Llama-family model at batch 1 as one persistent kernel.
//
// One block runs on each multiprocessor. Every matrix is dealt out in tiles of 16 rows, and what one block reads in a
// step lies in memory as one stream in the order of its reading (stream.py), copied ahead through a ring in shared
// memory (ring.cuh). A layer is five phases: norm and q, k, v | norms and rotation of heads, attention | o | norm, gate
// and up | down. After the layers come norm, lm_head and the argmax. Between two phases the blocks hand numbers on to
// one another as tagged packets (exchange.cuh); nothing else synchronises them. Every block keeps the whole residual
// in float32 registers and adds to it what o and down send.
//
// All blocks must run at once: as many as there are multiprocessors, one on each. The plain reference is forward.py.

#include "sizes.cuh"
#include "device.cuh"

#define Q_SIZE (HEADS * HEAD_DIM)
#define KV_SIZE (KV_HEADS * HEAD_DIM)
#define QKV_TILES ((Q_SIZE + 2 * KV_SIZE) / 16)
#define HEAD_TILES ((VOCAB + 15) / 16)

// What a block multiplies in each phase: tiles `first` to `first` + `count`. A tile of down is one of a part of the
// inputs: those of the first part come first. `head_offset` is where in its stream lm_head begins.
struct Share {
  int qkv_first, qkv_count, o_first, o_count, gate_up_first, gate_up_count, down_first, down_count;
  int head_first, head_count, num_granules, head_offset;
};

// The kernel's arguments, pointers first. The launcher reads their names from here.
#define STEP(FIELD)                                                                                                   \
  FIELD(const u8*, streams)      /* [blocks] streams, one after another */                                            \
  FIELD(const Share*, shares)    /* [blocks] */                                                                       \
  FIELD(const u16*, embedding)   /* [VOCAB][HIDDEN]; not read where TIED */                                           \
  FIELD(const u16*, norms)       /* [2 * LAYERS + 1][HIDDEN]: input and post norm of each layer, then the last norm */ \
  FIELD(const u16*, qkv_bias)    /* [LAYERS][Q_SIZE + 2 KV_SIZE]; not read without QKV_BIAS */                        \
  FIELD(const u16*, qk_norms)    /* [LAYERS][2][HEAD_DIM]; not read without QK_NORM */                                \
  FIELD(const float*, cos_sin)   /* [2][context][HEAD_DIM / 2] */                                                     \
  FIELD(u16*, keys)              /* [LAYERS][KV_HEADS][context][HEAD_DIM] */                                          \
  FIELD(u16*, values)            /* [LAYERS][KV_HEADS][HEAD_DIM][context] */                                          \
  FIELD(u64*, qkv)               /* packets: [Q_SIZE + 2 KV_SIZE], float */                                           \
  FIELD(u64*, attended)          /* [Q_SIZE / 2], two 16-bit numbers each */                                          \
  FIELD(u64*, from_o)            /* [HIDDEN], float */                                                                \
  FIELD(u64*, inner)             /* [INTER / 2], two 16-bit numbers each */                                           \
  FIELD(u64*, from_down)         /* [DOWN_PARTS][HIDDEN], float */                                                    \
  FIELD(u64*, parts)             /* [HEADS][max_splits][HEAD_DIM + 2], float */                                       \
  FIELD(u64*, best)              /* [blocks][2]: the largest logit of a block's rows, as an ordered integer; ~row */  \
  FIELD(float*, logits)          /* [VOCAB] */                                                                        \
  FIELD(int*, token)             /* the token to read first; replaced by the one chosen last */                       \
  FIELD(int*, position)          /* its position; moves on */                                                         \
  FIELD(int*, output)            /* [context + 1]: the token chosen for position p is written to output[p] */         \
  FIELD(u64*, times)             /* [1 + num_steps]: when the first began and each ended, nanoseconds by the GPU */   \
  FIELD(u32*, steps_done)        /* since the packets were cleared */                                                 \
  FIELD(u32*, stamps)            /* [blocks][STAMPS], cycles; only where the kernel is compiled with PROFILE */       \
  FIELD(int, stream_granules)    /* from one block's stream to the next */                                            \
  FIELD(int, context)            /* positions in cos_sin and in the cache, a multiple of 32 */                        \
  FIELD(int, max_splits)         /* in `parts` */                                                                     \
  FIELD(int, num_steps)          /* to take in this launch */                                                         \
  FIELD(int, keep_logits)        /* whether `logits` are written */

#define AS_MEMBER(type, name) type name;
struct Step {
  STEP(AS_MEMBER)
};

#include "ring.cuh"
#include "product.cuh"
#include "exchange.cuh"
#include "attention.cuh"

#define LONGEST_2(a, b) ((a) > (b) ? (a) : (b))
#define LONGEST LONGEST_2(LONGEST_2(HIDDEN, Q_SIZE), INTER)

struct Shared {
  u64 full[NUM_GRANULES], empty[NUM_GRANULES];
  u64 best[WARPS];
  float red[WARPS];
  alignas(16) u32 x[LONGEST / 2];  // what the present phase multiplies by, 16 bits each
  union {
    float partial[2 * TILES * WARPS * ROWS];
    AttentionScratch attention;
  };
};

// When a block reached a place in the last step, for finding out where the time goes. After the layers come lm_head's.
#define STAMPS (12 * (LAYERS + 1))
#if PROFILE
#define STAMP(place) \
  if (thread() == 0) s.stamps[block() * STAMPS + 12 * layer + place] = cycles()
#else
#define STAMP(place)
#endif

// ---- the residual -------------------------------------------------------------------------------------------------

#define PAIRS_EACH ((HIDDEN / 2 + THREADS - 1) / THREADS)

// Thread i has numbers 2i and 2i + 1, and so on in steps of 2 THREADS.
struct Residual {
  float first[PAIRS_EACH], second[PAIRS_EACH];

  template <int parts> DEVICE void add(const u64* from, u32 tag) {
    receive<HIDDEN / 2, parts>(from, tag, [&](int i, int, int, u32 a, u32 b) {
      first[i] += as_float(a), second[i] += as_float(b);
    });
  }
};

struct NormWeights {
  u32 w[PAIRS_EACH];

  DEVICE void load(const u16* from) {
    UNROLL
    for (int i = 0; i < PAIRS_EACH; ++i) {
      const int at = thread() + i * THREADS;
      w[i] = at < HIDDEN / 2 ? load_constant((const u32*)from + at) : 0;
    }
  }
};

// RMSNorm (arXiv 1910.07467) in float32, then 16 bits, into x.
DEVICE void normed(const Residual& r, const NormWeights& weights, Shared& m) {
  float squares = 0;
  UNROLL
  for (int i = 0; i < PAIRS_EACH; ++i)
    if (thread() + i * THREADS < HIDDEN / 2)
      squares = fmaf(r.first[i], r.first[i], fmaf(r.second[i], r.second[i], squares));
  squares = warp_sum(squares);
  if (lane() == 0) m.red[warp()] = squares;
  block_sync();
  squares = 0;
  UNROLL
  for (int k = 0; k < WARPS; ++k) squares += m.red[k];
  const float scale = reciprocal_root(squares / HIDDEN + (float)EPS);
  UNROLL
  for (int i = 0; i < PAIRS_EACH; ++i) {
    const int at = thread() + i * THREADS;
    if (at < HIDDEN / 2)
      m.x[at] = pack(r.first[i] * scale * low(weights.w[i]), r.second[i] * scale * high(weights.w[i]));
  }
  block_sync();
}

DEVICE const u8* stream_of(const Step& s, int block) { return s.streams + (u64)block * s.stream_granules * GRANULE; }

// Numbers 2i and 2i + 1 of a token's embedding. A tied one is read where lm_head lies, in some block's stream.
DEVICE void embedded(const Step& s, int token, int i, float& first, float& second) {
#if TIED
  using T = Tile<HEAD_BITS, HIDDEN>;
  const int tile = token / 16, row = token % 16, n = num_blocks();
  const int owner = (int)(((u64)(tile + 1) * n - 1) / HEAD_TILES), k = 2 * i;
  const Share& share = s.shares[owner];
  const u8* at = stream_of(s, owner) + share.head_offset + (u64)(tile - share.head_first) * T::bytes;
  const int lane_of = 4 * (row % 8) + k % 32 / 8;
#if HEAD_BITS == 16
  at += k / 32 * 1024 + k % 8 / 4 * 512 + 16 * lane_of + k % 4 / 2 * 8 + row / 8 * 4;
  const u32 two = load_constant((const u32*)at);
  first = low(two), second = high(two);
#else
  const u16 two = load_constant((const u16*)(at + k / 32 * 512 + 16 * lane_of + row / 8 * 8 + k % 8));
  const float scale = load_constant((const float*)(at + T::units * T::unit_bytes) + row);
  first = ((int)(two & 255) - 128) * scale, second = ((int)(two >> 8) - 128) * scale;
#endif
#else
  const u32 two = load_constant((const u32*)(s.embedding + (u64)token * HIDDEN) + i);
  first = low(two), second = high(two);
#endif
}

// ---- lm_head ------------------------------------------------------------------------------------------------------

// Larger logits first, and of equal ones the smaller row, as argmax does: both in one number that compares so.
DEVICE u64 ranked(float logit, int row) {
  const u32 raw = as_bits(logit);
  return (u64)(raw & 0x80000000u ? ~raw : raw | 0x80000000u) << 32 | (u32)~row;
}

DEVICE u64 block_most(u64 v, Shared& m) {
  UNROLL
  for (int d = 16; d; d /= 2) {
    const u64 other = from_lane(v, d);
    v = other > v ? other : v;
  }
  if (lane() == 0) m.best[warp()] = v;
  block_sync();
  v = 0;
  UNROLL
  for (int k = 0; k < WARPS; ++k) v = m.best[k] > v ? m.best[k] : v;
  return v;
}

// The row with the largest logit of all blocks. What the block wrote into the cache is seen by all after it.
DEVICE int choose(const Step& s, u64 best, u32 tag, Shared& m) {
  best = block_most(best, m);
  if (thread() == 0) {
    fence_all_blocks();
    send(s.best + 2 * block(), (u32)(best >> 32), tag);
    send(s.best + 2 * block() + 1, (u32)best, tag);
  }
  best = 0;
  for (int i = thread(); i < num_blocks(); i += THREADS) {
    u64 a, b;
    do load_packets(s.best + 2 * i, a, b);
    while ((u32)(a >> 32) != tag || (u32)(b >> 32) != tag);
    const u64 one = a << 32 | (u32)b;
    best = one > best ? one : best;
  }
  fence_all_blocks();
  block_sync();  // everybody has read m.best
  return (int)~(u32)block_most(best, m);
}

// ---- the kernel ---------------------------------------------------------------------------------------------------

DEVICE void decode(const Step& s, const Share& share, Ring& ring, Shared& m) {
  int token = *s.token, position = *s.position;
  const u32 epoch = *s.steps_done;
  if (block() == 0 && thread() == 0) s.times[0] = nanoseconds();
  for (int step = 0; step < s.num_steps; ++step, ++position) {
    u32 at = 0, tag = (epoch + step) * (LAYERS + 1) + 1;
    const int splits = num_splits(position + 1), unit = num_blocks() - 1 - block();
    Residual r;
    NormWeights weights;
    UNROLL
    for (int i = 0; i < PAIRS_EACH; ++i)
      if (thread() + i * THREADS < HIDDEN / 2) embedded(s, token, thread() + i * THREADS, r.first[i], r.second[i]);
    for (int layer = 0; layer < LAYERS; ++layer, ++tag) {
      STAMP(0);
      weights.load(s.norms + (u64)2 * layer * HIDDEN);
      if (layer) r.add<DOWN_PARTS>(s.from_down, tag - 1);
      STAMP(1);
      if (share.qkv_count) {
        const u16* bias = s.qkv_bias + (u64)layer * (Q_SIZE + 2 * KV_SIZE) + share.qkv_first * 16;
        const int mine = thread() < 16 * share.qkv_count ? thread() : 0;
        const float ahead = QKV_BIAS ? low(load_constant(bias + mine)) : 0.0f;
        normed(r, weights, m);
        multiply<BITS, HIDDEN>(ring, at, m.x, share.qkv_count, m.partial, [&](int tile, int row, float y) {
          if (tile >= share.qkv_count) return;
          if (QKV_BIAS) y += tile < TILES ? ahead : low(load_constant(bias + 16 * tile + row));
          send(s.qkv + (share.qkv_first + tile) * 16 + row, y, tag);
        });
      }
      STAMP(2);
      for (int u = unit; u < KV_HEADS * splits; u += num_blocks())
        attend(s, layer, u / splits, u % splits, splits, position, tag, m.attention);
      if (splits > 1)
        for (int head = block(); head < HEADS; head += num_blocks()) join(s, head, splits, tag, m.attention);
      STAMP(3);
      if (share.o_count) {
        receive<Q_SIZE / 4, 1>(s.attended, tag, [&](int, int i, int, u32 a, u32 b) {
          m.x[2 * i] = a, m.x[2 * i + 1] = b;
        });
        block_sync();
        STAMP(4);
        multiply<BITS, Q_SIZE>(ring, at, m.x, share.o_count, m.partial, [&](int tile, int row, float y) {
          if (tile < share.o_count) send(s.from_o + (share.o_first + tile) * 16 + row, y, tag);
        });
      }
      STAMP(5);
      weights.load(s.norms + (u64)(2 * layer + 1) * HIDDEN);
      r.add<1>(s.from_o, tag);
      STAMP(6);
      normed(r, weights, m);
      STAMP(7);
      multiply<BITS, HIDDEN>(ring, at, m.x, share.gate_up_count, m.partial, [&](int tile, int row, float y) {
        // Rows 0 to 7 of a tile are of gate, 8 to 15 the same of up.
        const float up = from_lane(y, 8), product = y / (1.0f + exp2_fast(-LOG2_E * y)) * up;
        const float next = from_lane(product, 1);
        if (tile < share.gate_up_count && row < 8 && row % 2 == 0)
          send(s.inner + (share.gate_up_first + tile) * 4 + row / 2, pack(product, next), tag);
      });
      STAMP(8);
      if (share.down_count) {
        constexpr int tiles = HIDDEN / 16, inputs = INTER / DOWN_PARTS;
        // A block's tiles may begin in one part of the inputs and end in the next.
        for (int done = 0; done < share.down_count;) {
          const int part = (share.down_first + done) / tiles, row_tile = (share.down_first + done) % tiles;
          const int count = share.down_count - done < tiles - row_tile ? share.down_count - done : tiles - row_tile;
          receive<inputs / 4, 1>(s.inner + part * (inputs / 2), tag, [&](int, int i, int, u32 a, u32 b) {
            m.x[2 * i] = a, m.x[2 * i + 1] = b;
          });
          block_sync();
          STAMP(9);
          multiply<BITS, inputs>(ring, at, m.x, count, m.partial, [&](int tile, int row, float y) {
            if (tile < count) send(s.from_down + part * HIDDEN + (row_tile + tile) * 16 + row, y, tag);
          });
          done += count;
          if (done < share.down_count) block_sync();  // x is free again
        }
      }
      STAMP(10);
    }
    constexpr int layer = LAYERS;  // of what follows, for its stamps
    weights.load(s.norms + (u64)2 * layer * HIDDEN);
    r.add<DOWN_PARTS>(s.from_down, tag - 1);
    STAMP(0);
    normed(r, weights, m);
    u64 best = 0;
    multiply<HEAD_BITS, HIDDEN>(ring, at, m.x, share.head_count, m.partial, [&](int tile, int row, float y) {
      const int of_all = (share.head_first + tile) * 16 + row;
      if (tile >= share.head_count || of_all >= VOCAB) return;
      const u64 one = ranked(y, of_all);
      best = one > best ? one : best;
      if (s.keep_logits) s.logits[of_all] = y;
    });
    STAMP(1);
    token = choose(s, best, tag, m);
    STAMP(2);
    if (block() == 0 && thread() == 0) s.output[position + 1] = token, s.times[step + 1] = nanoseconds();
    ring.release(share.num_granules * GRANULE);  // the padding too
    ring.first += share.num_granules;
  }
  if (block() == 0 && thread() == 0) *s.token = token, *s.position = position, *s.steps_done = epoch + s.num_steps;
}

#define AS_PARAMETER(type, name) type name,
#define AS_VALUE(type, name) name,

// `unused` only ends the list.
KERNEL decode_steps(STEP(AS_PARAMETER) int unused) {
  const Step s = {STEP(AS_VALUE)};
  const Share share = s.shares[block()];
  u8* bytes = dynamic_shared();
  Shared& m = *(Shared*)(bytes + RING);
  if (thread() == 0) {
    for (int i = 0; i < NUM_GRANULES; ++i) mbarrier_init(m.full + i, 1), mbarrier_init(m.empty + i, WARPS);
    mbarrier_init_done();
  }
  block_sync_all();
  if (thread() >= THREADS) {
    if (thread() == THREADS) produce(bytes, m.full, m.empty, stream_of(s, block()), share.num_granules, s.num_steps);
    return;
  }
  Ring ring = {bytes, m.full, m.empty, 0, 0, 0};
  decode(s, share, ring, m);
}
