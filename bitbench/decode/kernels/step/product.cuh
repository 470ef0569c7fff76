// Rows of a matrix times a vector of each sequence, on tensor cores: 16 rows (a tile) and some neighbouring inputs (a
// unit) at a time.
//
// Weights lie in the stream in the order in which the lanes of a warp need them (tiles.py), so a lane reads 16 bytes at
// once and has its part of a matrix fragment. Inputs are numbered so that a lane's eight neighbouring ones belong to it
// in two products: the vector keeps its natural order. The eight columns of a product are sequences; at batch 1 only the
// first is used, and what is done costs as much as for eight.
//
// Weights of 8 and 4 bits become float16 by a mask: bits in the lowest places of an otherwise empty half are a subnormal
// number, q 2^-24, or q 2^-20 four places higher, exact, and tensor cores take subnormal numbers as they are. Where a block
// has some tiles and there is one sequence they are multiplied as integers instead, bytes as they are or one mask for eight
// numbers, and the vector is in planes (planes.cuh): half the products and a fifth of the masks. What must be subtracted for
// the zero point is a multiple of the vector's sum over the unit. Sums are float32, or exact within a unit.

#define ROWS 16
#define TILES 8  // at most so many tiles are multiplied between two synchronisations

static_assert(SEQUENCES >= 1 && SEQUENCES <= 8, "a column for each sequence");

// Columns of a lane's part of a product, 2t and with more than one sequence 2t + 1, too.
#define LANE_COLUMNS (SEQUENCES > 1 ? 2 : 1)
// Sums of a tile by one warp: a sequence's rows and, so that lanes write to different banks, some room.
#define SUMS_ROW (SEQUENCES > 1 ? ROWS + 4 : ROWS)
#define WARP_SUMS (SEQUENCES * SUMS_ROW)
#define TILE_SUMS (WARPS * WARP_SUMS)
#define SUMS_HALVES (SEQUENCES > 1 ? 1 : 2)  // for more sequences shared memory does not suffice

// Words from one sequence's vector to the next: rows begin in alternate halves of the banks.
DEVICE constexpr int vector_words(int inputs) { return inputs / 2 + (inputs / 2 % 32 ? 0 : 16); }

// Groups of ROWS threads share out a batch's sums, those of one tile for all sequences and then the next's. If only the
// first ONE_SEQUENCE groups do, each has the same sequence every time.
#define GROUPS (THREADS / ROWS)
#define ONE_SEQUENCE (GROUPS / SEQUENCES * SEQUENCES)
static_assert(ONE_SEQUENCE, "a group for each sequence");
DEVICE int group() { return thread() / ROWS; }

// Tiles follow each other in the stream in batches. In a batch of n tiles come, unit after unit, the n tiles' parts of it;
// with 4 bits each part ends with pairs of scale and zero point of rows g and g + 8, for g from 0 to 7; with 8 bits a
// batch ends with 16 float scales a tile.
template <int bits, int inputs, int unit_inputs>
struct Tile {
  static constexpr int units = inputs / unit_inputs;
  static constexpr int unit_bytes = ROWS * unit_inputs * bits / 8 + (bits == 4 ? 4 * ROWS : 0);
  static constexpr int end_bytes = bits == 8 ? 4 * ROWS : 0;
  static constexpr int bytes = units * unit_bytes + end_bytes;
  // A warp has up to four units at a time: a segment is what all warps have. While it is multiplied the other half of the
  // ring is filled.
  static constexpr int rounds = (units + WARPS - 1) / WARPS, fitting = RING / 2 / (WARPS * unit_bytes);
  static constexpr int most = fitting < 1 ? 1 : fitting < 4 ? fitting : 4, segments = (rounds + most - 1) / most;
  static constexpr int each = (rounds + segments - 1) / segments;
  static constexpr int segment = units < each * WARPS ? units : each * WARPS;
  // Of `most` tiles at most: whether all are multiplied at once, and whether a part of the vector is used only once then.
  template <int most> static constexpr bool together = each == 1 && bits < 16 && most <= 5;
  template <int most> static constexpr bool once = together<most> || most == 1;
  // Whether a block has one batch of one segment at most, and whether all its warps have units then.
  template <int most, int batch> static constexpr bool small = units <= segment && most <= batch;
  template <int most, int batch> static constexpr bool small_for_all = small<most, batch> && units >= WARPS;
  static_assert(inputs % unit_inputs == 0 && unit_inputs % (bits == 4 ? 64 : 32) == 0, "inputs must be whole units");
  static_assert(unit_bytes <= TAIL, "a unit that the ring's end cuts is read from its tail");
  static_assert(segment * unit_bytes + 2 * GRANULE <= RING, "what is read at once must fit in the ring");
};

// Adds to sums of the columns of a right operand of 16 inputs: rows of ones.
DEVICE void add_sums(u32 x, u32 y, float (&sum)[4]) {
  constexpr u32 one = BF16 ? 0x3f803f80u : 0x3c003c00u;
  mma(sum, one, one, one, one, x, y);
}

// What a product multiplies by, in shared memory.
struct Vector {
  const u32* at;
  const Fixed* fixed;  // where it is in planes
};

// A unit's part of the vector as right operands, for any tile: of each lane's eight inputs the first four are one
// product's. Columns without a sequence are 0.
template <int bits, int inputs, int unit_inputs, bool planes>
struct VectorPart {
  using Number = float;
  static constexpr int pieces = (unit_inputs + 127) / 128;
  Words at[unit_inputs / 32];
  u64 own[pieces];  // for one sequence: this lane's four of 128 inputs, for their sum
  float sum[4];     // of the inputs, by columns

  // Without the sums where the vector is used only once: they are found beside its products then.
  DEVICE void load(const Vector& x, int unit, bool with_sums) {
    const u32* from = x.at + unit * (unit_inputs / 2);
    UNROLL
    for (int i = 0; i < pieces && SEQUENCES == 1 && bits < 16; ++i)
      own[i] = 128 * i + 4 * lane() < unit_inputs ? *(const u64*)(from + 64 * i + 2 * lane()) : 0;
    from += lane() / 4 * vector_words(inputs) + 4 * (lane() % 4);
    UNROLL
    for (int i = 0; i < unit_inputs / 32; ++i) {
      at[i] = {0, 0, 0, 0};
      if (lane() / 4 < SEQUENCES) at[i] = *(const Words*)(from + 16 * i);
    }
    UNROLL
    for (int k = 0; k < 4; ++k) sum[k] = 0;
    if (!with_sums) return;
    begin_sums();
    UNROLL
    for (int i = 0; i < unit_inputs / 32; ++i) sum_chunk(i);
    end_sums();
  }

  // Of one sequence each column is a piece of the vector, so that one product adds up 128 inputs; of more, each chunk of 32
  // takes two.
  DEVICE void begin_sums() {
    UNROLL
    for (int i = 0; i < pieces && SEQUENCES == 1 && bits < 16; ++i) add_sums((u32)own[i], (u32)(own[i] >> 32), sum);
  }
  DEVICE void sum_chunk(int i) {
    if (SEQUENCES > 1 && bits < 16) add_sums(at[i].x, at[i].y, sum), add_sums(at[i].z, at[i].w, sum);
  }
  DEVICE void end_sums() {
    if (SEQUENCES > 1 || bits == 16) return;
    sum[0] += sum[1];
    sum[0] += from_lane(sum[0], 1), sum[0] += from_lane(sum[0], 2);
  }
};

// In planes: the first column is the high one, the second the low one.
template <int bits, int inputs, int unit_inputs>
struct VectorPart<bits, inputs, unit_inputs, true> {
  using Number = int;
  Words at[unit_inputs / 64];  // of two chunks
  const Fixed* from;
  Fixed fixed;

  DEVICE void load(const Vector& x, int unit, bool with_sums) {
    const u8* bytes = (const u8*)(x.at + unit * (unit_inputs / 2));
    bytes += lane() / 4 * unit_inputs + lane() % 4 * (unit_inputs / 4);
    UNROLL
    for (int i = 0; i < unit_inputs / 64; ++i) {
      at[i] = {0, 0, 0, 0};
      if (lane() < 8) at[i] = *(const Words*)(bytes + 16 * i);
    }
    from = x.fixed + unit;
    if (with_sums) end_sums();
  }
  DEVICE void begin_sums() {}
  DEVICE void sum_chunk(int) {}
  DEVICE void end_sums() { fixed = *from; }
};

// A tile's unit as this lane has it.
template <int bits, int unit_inputs>
struct TilePart {
  static constexpr int words = unit_inputs * bits / 8 / 32;
  Words at[words];
  u64 ends;  // 4 bits: two pairs of scale and zero point

  DEVICE void load(const u8* from) {
    UNROLL
    for (int i = 0; i < words; ++i) at[i] = *(const Words*)(from + 512 * i + 16 * lane());
    if (bits == 4) ends = *(const u64*)(from + 512 * words + 8 * (lane() / 4));
  }

  // Adds the products of chunk i of 32 inputs to two independent sums.
  template <int inputs>
  DEVICE void multiply(
      int i, const VectorPart<bits, inputs, unit_inputs, true>& v, int (&a)[4], int (&b)[4]) const {
    const Words& x = v.at[i / 2];
    if constexpr (bits == 8) {
      const Words& q = at[i];  // bytes q + 128: 8 of row g, 8 of row g + 8
      if (i % 2) mma(b, q.x, q.z, q.y, q.w, x.z, x.w);
      else mma(a, q.x, q.z, q.y, q.w, x.x, x.y);
    } else if (i % 2 == 0) {
      const Words& q = at[i / 2];  // rows g and g + 8 of this chunk and of the next; 16 times what is in high nibbles
      constexpr u32 l = 0x0f0f0f0fu, h = 0xf0f0f0f0u;
      mma(a, q.x & l, q.y & l, q.z & l, q.w & l, x.x, x.y);
      mma(b, q.x & h, q.y & h, q.z & h, q.w & h, x.z, x.w);
    }
  }
  template <int inputs>
  DEVICE void multiply(
      int i, const VectorPart<bits, inputs, unit_inputs, false>& v, float (&a)[4], float (&b)[4]) const {
    const Words& x = v.at[i];
    if constexpr (bits == 16) {
      const Words &p = at[2 * i], &q = at[2 * i + 1];
      mma(a, p.x, p.y, p.z, p.w, x.x, x.y);
      mma(b, q.x, q.y, q.z, q.w, x.z, x.w);
    } else if constexpr (bits == 8) {
      const Words& q = at[i];  // bytes q + 128: 8 of row g, 8 of row g + 8
      mma(a, pick_bytes(q.x, 0, 0x4140), pick_bytes(q.z, 0, 0x4140), pick_bytes(q.x, 0, 0x4342),
          pick_bytes(q.z, 0, 0x4342), x.x, x.y);
      mma(b, pick_bytes(q.y, 0, 0x4140), pick_bytes(q.w, 0, 0x4140), pick_bytes(q.y, 0, 0x4342),
          pick_bytes(q.w, 0, 0x4342), x.z, x.w);
    } else {
      // Eight inputs of row g and of row g + 8, as nibbles in the order 0 4 2 6 1 5 3 7.
      const Words& q = at[i / 2];
      const u32 g = i % 2 ? q.z : q.x, h = i % 2 ? q.w : q.y, g8 = g >> 8, h8 = h >> 8;
      mma(a, g & 0x000f000fu, h & 0x000f000fu, g8 & 0x000f000fu, h8 & 0x000f000fu, x.x, x.y);
      mma(b, g & 0x00f000f0u, h & 0x00f000f0u, g8 & 0x00f000f0u, h8 & 0x00f000f0u, x.z, x.w);
    }
  }

  // What the sums mean for row g (0) or g + 8 (1) and column 2t or 2t + 1: without the row's scale for 8 bits.
  template <int inputs>
  DEVICE float result(
      int row, int, const int (&a)[4], const int (&b)[4], const VectorPart<bits, inputs, unit_inputs, true>& x) const {
    const int p = 256 * a[2 * row] + a[2 * row + 1], q = 256 * b[2 * row] + b[2 * row + 1];
    const float scale = x.fixed.scale, sum = x.fixed.sum;
    if constexpr (bits == 8) return scale * fmaf(-128.0f, sum, (float)(p + q));
    const u32 pair = (u32)(ends >> 32 * row);  // scale, zero point
    return low(pair) * scale * fmaf(-high(pair), sum, (float)(p + (q >> 4)));
  }
  template <int inputs>
  DEVICE float result(
      int row, int column, const float (&a)[4], const float (&b)[4],
      const VectorPart<bits, inputs, unit_inputs, false>& x) const {
    const float p = a[2 * row + column], q = b[2 * row + column], sum = x.sum[column];
    if constexpr (bits == 16) return p + q;
    if constexpr (bits == 8) return fmaf(p + q, 0x1p24f, -128.0f * sum);
    const u32 pair = (u32)(ends >> 32 * row);  // scale, zero point
    return low(pair) * fmaf(fmaf(p, 16.0f, q), 0x1p20f, -high(pair) * sum);
  }
};

// What is done beside products in small steps, so that one's latencies hide behind the others'.
#define BESIDE_STEPS 8
struct Nothing {
  DEVICE void operator()(int) const {}
};
template <class Beside>
DEVICE void all_steps(Beside beside) {
  UNROLL
  for (int k = 0; k < BESIDE_STEPS; ++k) beside(k);
}

// `units` units of `tiles` tiles, all at once so that one's latencies hide behind the others': y[tile] are the sums of
// rows g and g + 8 in the lane's columns over the first `num` units. `once`: x is used only here, and its sums are found
// here too. `beside(step)` is called for all BESIDE_STEPS.
template <int bits, int unit_inputs, int units, int tiles, class Part, class Beside>
DEVICE void multiply_at_once(
    const Ring& ring, const u32 (&place)[units][tiles], Part (&x)[units], bool once, int num,
    float (&y)[tiles][2][LANE_COLUMNS], Beside beside) {
  using Number = typename Part::Number;
  // A product takes four times as long until it is there as until the next can begin, so a single tile's are two chains.
  constexpr int chains = units * tiles == 1 && unit_inputs >= 64 ? 2 : 1;
  TilePart<bits, unit_inputs> w[units][tiles];
  Number a[units][tiles][chains][4], b[units][tiles][chains][4];
  UNROLL
  for (int u = 0; u < units; ++u)
    UNROLL
    for (int t = 0; t < tiles; ++t) {
      w[u][t].load(ring.bytes + place[u][t]);
      UNROLL
      for (int c = 0; c < chains; ++c)
        UNROLL
        for (int k = 0; k < 4; ++k) a[u][t][c][k] = b[u][t][c][k] = 0;
    }
  UNROLL
  for (int u = 0; u < units && once; ++u) x[u].begin_sums();
  UNROLL
  for (int i = 0; i < unit_inputs / 32; ++i) {
    constexpr int steps = (BESIDE_STEPS * 32 + unit_inputs - 1) / unit_inputs;
    UNROLL
    for (int k = i * steps; k < (i + 1) * steps && k < BESIDE_STEPS; ++k) beside(k);
    UNROLL
    for (int u = 0; u < units; ++u) {
      UNROLL
      for (int t = 0; t < tiles; ++t) w[u][t].multiply(i, x[u], a[u][t][i % chains], b[u][t][i % chains]);
      if (once) x[u].sum_chunk(i);
    }
  }
  UNROLL
  for (int u = 0; u < units && once; ++u) x[u].end_sums();
  UNROLL
  for (int k = 0; k < 4 && chains > 1; ++k) {
    a[0][0][0][k] += a[0][0][chains - 1][k];
    b[0][0][0][k] += b[0][0][chains - 1][k];
  }
  UNROLL
  for (int t = 0; t < tiles; ++t)
    UNROLL
    for (int row = 0; row < 2; ++row)
      UNROLL
      for (int c = 0; c < LANE_COLUMNS; ++c) {
        y[t][row][c] = 0;
        UNROLL
        for (int u = 0; u < units; ++u) {
          const float one = w[u][t].result(row, c, a[u][t][0], b[u][t][0], x[u]);
          y[t][row][c] += u == 0 || u < num ? one : 0.0f;
        }
      }
}

// Where the warps' sums of tiles meet, [SUMS_HALVES][TILES][WARPS][SEQUENCES][SUMS_ROW] in shared memory. While one half
// is read the other is written, and before that one is written again all warps meet. With one half they meet when they have
// read it, and what was sent then is still under way.
struct Sums {
  float* halves;
  u32 rounds;  // in which this warp has read what met

  DEVICE float* at() const { return halves + rounds % SUMS_HALVES * (TILES * TILE_SUMS); }
  DEVICE void has_read() {
    if (SUMS_HALVES == 1) block_sync();
    ++rounds;
  }
};

// This lane's sums of up to `tiles` tiles from tile `first` on to where they meet, added to what is there already or not.
template <int tiles>
DEVICE void hand_over(float* mine, int first, int num, const float (&y)[tiles][2][LANE_COLUMNS], bool add) {
  UNROLL
  for (int c = 0; c < LANE_COLUMNS; ++c) {
    const int column = 2 * (lane() % 4) + c;
    if (column >= SEQUENCES) continue;
    UNROLL
    for (int t = 0; t < tiles; ++t) {
      if (t >= num) continue;
      float* to = mine + (first + t) * TILE_SUMS + column * SUMS_ROW;
      const float above = add ? to[0] : 0.0f, below = add ? to[8] : 0.0f;
      to[0] = above + y[t][0][c], to[8] = below + y[t][1][c];
    }
  }
}

// This warp's units of n tiles times its part of the vector, to where sums meet; `unit` says where in
// the ring each begins. Units behind the first `num` are done for nothing and not counted. Of `most` tiles at most.
template <int bits, int inputs, int unit_inputs, int most, int each, class Part, class Beside>
DEVICE void multiply_tiles(
    const Ring& ring, Part (&v)[each], const u32 (&unit)[each], int n, int num, float* mine,
    bool add, Beside beside) {
  using T = Tile<bits, inputs, unit_inputs>;
  constexpr int at_once = bits == 16 ? 2 : 4;
  if constexpr (!T::template together<most>) all_steps(beside);
  if constexpr (T::template together<most>) {
    u32 place[1][most];  // those that are missing are done twice and not handed over
    UNROLL
    for (int t = 0; t < most; ++t) place[0][t] = Ring::onward(unit[0], (u32)(t < n ? t : 0) * T::unit_bytes);
    float y[most][2][LANE_COLUMNS];
    multiply_at_once<bits, unit_inputs, 1, most>(ring, place, v, T::template once<most>, num, y, beside);
    hand_over<most>(mine, 0, n, y, add);
  } else if constexpr (each == 1) {
    int i = 0;
    NO_UNROLL
    for (; most >= at_once && i + at_once <= n; i += at_once) {
      u32 place[1][at_once];
      UNROLL
      for (int t = 0; t < at_once; ++t) place[0][t] = Ring::onward(unit[0], (u32)(i + t) * T::unit_bytes);
      float y[at_once][2][LANE_COLUMNS];
      multiply_at_once<bits, unit_inputs, 1, at_once>(ring, place, v, T::template once<most>, num, y, Nothing());
      hand_over<at_once>(mine, i, at_once, y, add);
    }
    if (at_once > 2 && most >= 2 && n - i >= 2) {
      const u32 place[1][2] = {
          Ring::onward(unit[0], (u32)i * T::unit_bytes), Ring::onward(unit[0], (u32)(i + 1) * T::unit_bytes)};
      float y[2][2][LANE_COLUMNS];
      multiply_at_once<bits, unit_inputs, 1, 2>(ring, place, v, T::template once<most>, num, y, Nothing());
      hand_over<2>(mine, i, 2, y, add);
      i += 2;
    }
    if (i < n) {
      const u32 place[1][1] = {Ring::onward(unit[0], (u32)i * T::unit_bytes)};
      float y[1][2][LANE_COLUMNS];
      multiply_at_once<bits, unit_inputs, 1, 1>(ring, place, v, T::template once<most>, num, y, Nothing());
      hand_over<1>(mine, i, 1, y, add);
    }
  } else {
    NO_UNROLL
    for (int i = 0; i < n; ++i) {
      u32 place[each][1];
      UNROLL
      for (int u = 0; u < each; ++u) place[u][0] = Ring::onward(unit[u], (u32)i * T::unit_bytes);
      float y[1][2][LANE_COLUMNS];
      multiply_at_once<bits, unit_inputs, each, 1>(ring, place, v, T::template once<most>, num, y, Nothing());
      hand_over<1>(mine, i, 1, y, add);
    }
  }
}

// This warp's `num` units of a single tile from unit `my` on, one after another: little code, and for one sequence that is
// faster than many at once (docs/log.md).
template <class T, int bits, int unit_inputs, class Part>
DEVICE void multiply_units(const Ring& ring, const Vector& x, u32 begin, int my, int num, float* mine) {
  float y[1][2][LANE_COLUMNS] = {};
  NO_UNROLL
  for (int i = my; i < my + num * WARPS; i += WARPS) {
    Part part[1];
    part[0].load(x, i, false);
    const u32 place[1][1] = {Ring::onward(begin, (u32)i * T::unit_bytes)};
    float one[1][2][LANE_COLUMNS];
    multiply_at_once<bits, unit_inputs, 1, 1>(ring, place, part, true, 1, one, Nothing());
    UNROLL
    for (int row = 0; row < 2; ++row)
      UNROLL
      for (int c = 0; c < LANE_COLUMNS; ++c) y[0][row][c] += one[0][row][c];
  }
  hand_over<1>(mine, 0, 1, y, false);
}

// What met in `sums` of `tiles` tiles, the first of which is `first` of `count`, is summed and handed to `done`. With 8 bits
// the tiles' scales lie in the ring from `ends` on.
template <int bits, int units, int groups, bool one_round, class Met, class Done>
DEVICE void finish_tiles(
    const Ring& ring, u32 ends, const float* sums, int first, int tiles, int count, Met met, Done done) {
  constexpr int at_a_time = SEQUENCES > 1 && !one_round ? 3 : 1;
  const int items = tiles * SEQUENCES, row = thread() % ROWS;
  NO_UNROLL
  for (int base = 0; base < items; base += one_round ? items : at_a_time * groups) {
    float y[at_a_time];
    UNROLL
    for (int k = 0; k < at_a_time; ++k) {
      const int wanted = base + k * groups + group(), item = wanted < items ? wanted : items - 1;  // no branches
      const int tile = item / SEQUENCES;
      const float* from = sums + tile * TILE_SUMS + item % SEQUENCES * SUMS_ROW + row;
      y[k] = 0;
      UNROLL
      for (int w = 0; w < (units < WARPS ? units : WARPS); ++w) y[k] += from[w * WARP_SUMS];
      if (bits == 8) y[k] *= *(const float*)(ring.bytes + Ring::onward(ends, 4 * (tile * ROWS + row)));
    }
    if (SEQUENCES == 1 && first == 0 && base == 0) met();  // one's latencies behind the other's
    const auto finish = [&](int k) {
      const int item = base + k * groups + group();
      const bool whole = item < items && group() < groups;
      return done(whole ? first + item / SEQUENCES : count, item % SEQUENCES, row, y[k]);
    };
    if (at_a_time == 1 || items - base <= groups) {
      if (base + 2 * warp() < items) finish(0).send();  // whole warps
    } else {  // one's latencies behind the others'
      Word words[at_a_time];
      UNROLL
      for (int k = 0; k < at_a_time; ++k) words[k] = finish(k);
      UNROLL
      for (int k = 0; k < at_a_time; ++k) words[k].send();
    }
  }
}

// `count` tiles of the stream from `at` on, at most `most`, times the vector x; `at` moves on behind them. Units are dealt
// out to the warps, and each warp's part of x is there when it comes. `beside(step)` is called for each of BESIDE_STEPS
// while the first products are under way, and `met()` when all warps have been there. Then `done(tile, sequence, row, y)`,
// which says what is to be sent, is called by one of the first `groups` groups for each tile and sequence, with
// row = lane % 16, and by other threads of its warp with tile = `count`. `mark` hears of places. What is a batch of one
// segment the caller has waited for.
template <
    int bits, int inputs, int unit_inputs, bool planes, int groups, int most, int batch, class Mark, class Beside,
    class Met, class Done>
DEVICE void multiply(
    Ring& ring, u32& at, const Vector& x, int count, Sums& sums, Mark mark, Beside beside, Met met, Done done) {
  static_assert(batch <= TILES, "sums meet in TILES places");
  if (most == 1) count = count ? 1 : 0;  // said to the compiler
  using T = Tile<bits, inputs, unit_inputs>;
  constexpr int each = T::each;
  constexpr bool one_segment = T::units <= T::segment, small = T::template small<most, batch>;
  constexpr bool all = one_segment && T::units >= WARPS;  // warps have units
  constexpr bool besides_products = T::template small_for_all<most, batch>;
  constexpr bool one_tile = SEQUENCES == 1 && small && most == 1 && each > 1;
  // Sums of several batches meet at once, but for 8 bits, whose scales are read from the stream after that.
  constexpr int at_once = small ? most : bits == 8 ? batch : TILES / batch * batch;
  using Part = VectorPart<bits, inputs, unit_inputs, planes>;
  Part v[each];
  // This warp's part of the vector: units `my` and every WARPS-th after it, `num` of them.
  const auto load = [&](int my, int num) {
    UNROLL
    for (int u = 0; u < each; ++u)
      v[u].load(x, my + (u < num ? u : 0) * WARPS, !T::template once<most>);
  };
  if (one_segment && !small)
    load(T::units >= WARPS || warp() < T::units ? warp() : 0, (T::units - warp() + WARPS - 1) / WARPS);
  if (count && !besides_products) all_steps(beside);
  NO_UNROLL
  for (int first = 0; first < count; first += small ? count : at_once) {
    const int tiles = small || count - first < at_once ? count - first : at_once;
    u32 ends = 0;
    const auto batch_from = [&](int i) {
      const int n = small || tiles - i < batch ? tiles - i : batch;
      float* mine = sums.at() + i * TILE_SUMS + warp() * WARP_SUMS + lane() / 4;
      NO_UNROLL
      for (int start = 0; start < T::units; start += T::segment) {
        const int end = start + T::segment < T::units ? start + T::segment : T::units;
        const int my = start + warp(), num = my < end ? (end - my + WARPS - 1) / WARPS : 0;
        const u32 begin = ring.place(at);
        at += (u32)((end - start) * n) * T::unit_bytes;
        const u32 units_end = at;
        if (bits == 8) ends = ring.place(at);
        if (end == T::units) at += n * T::end_bytes;
        if (!small) ring.wait_together(at);
        mark(3);
        if (all || num) {
          if (!one_tile && (small || !one_segment)) load(my, num);
          mark(4);
          if constexpr (one_tile) {
            if (besides_products) all_steps(beside);
            multiply_units<T, bits, unit_inputs, Part>(ring, x, begin, my, num, mine);
          } else {
            u32 unit[each];
            UNROLL
            for (int u = 0; u < each; ++u)
              unit[u] = Ring::onward(begin, (u32)((my - start + (u < num ? u : 0) * WARPS) * n) * T::unit_bytes);
            const auto besides = [&](int k) {
              if (besides_products) beside(k);
            };
            multiply_tiles<bits, inputs, unit_inputs, most>(ring, v, unit, n, num, mine, start > 0, besides);
          }
        }
        mark(5);
        if (!small) ring.release(units_end);
      }
    };
    if constexpr (small) {
      batch_from(0);
    } else {
      NO_UNROLL
      for (int i = 0; i < tiles; i += batch) batch_from(i);
    }
    mark(6);
    block_sync();
    mark(7);
    if (SEQUENCES > 1 && !first) met();
    finish_tiles<bits, T::units, groups, (most <= at_once && most * SEQUENCES <= groups)>(
        ring, ends, sums.at(), first, tiles, count, met, done);
    sums.has_read();
  }
  if (one_segment) ring.release(at);  // others wait for what was sent, nobody for this
}
