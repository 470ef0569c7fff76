// A part of a matrix as a warp multiplies it on tensor cores: 16 rows (a tile) and some neighbouring inputs (a unit) at a
// time, and the part of the vector that it meets.
//
// Weights lie in the stream in the order in which the lanes of a warp need them (tiles.py), so a lane reads 16 bytes at
// once and has its part of a matrix fragment. Inputs are numbered so that a lane's eight neighbouring ones belong to it
// in two products: the vector keeps its natural order. The eight columns of a product are sequences; at batch 1 only the
// first is used, and what is done costs as much as for eight.
//
// Weights of 8 and 4 bits become float16 by a mask: bits in the lowest places of an otherwise empty half are a subnormal
// number, q 2^-24, or q 2^-20 four places higher, exact, and tensor cores take subnormal numbers as they are. Where a block
// has some tiles and there is one sequence they are multiplied as integers instead, bytes as they are or with one mask for
// four numbers, and the vector is in planes (planes.cuh): half the products, two fifths of the masks and shifts or none.
// What must be subtracted for the zero point is a multiple of the vector's sum over the unit. Sums are float32, or exact
// within a unit.

#define ROWS 16
#define TILES 8  // at most so many are multiplied between two synchronisations

static_assert(SEQUENCES >= 1 && SEQUENCES <= 8, "a column for each sequence");

// Columns of a lane's part of a product, 2t and with more than one sequence 2t + 1, too.
#define LANE_COLUMNS (SEQUENCES > 1 ? 2 : 1)
// Words from one sequence's vector to the next: rows begin in alternate halves of the banks.
DEVICE constexpr int vector_words(int inputs) { return inputs / 2 + (inputs / 2 % 32 ? 0 : 16); }

// Tiles follow each other in the stream in batches. In a batch of n tiles come, unit after unit, the n tiles' parts of it;
// with 4 bits each part ends with pairs of scale and zero point of rows g and g + 8, for g from 0 to 7; with 8 bits a
// batch ends with 16 float scales a tile.
template <int bits, int inputs, int unit_inputs>
struct Tile {
  static constexpr int units = inputs / unit_inputs;
  static constexpr int warps = units < WARPS ? units : WARPS;  // that have some
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
  // Sums of several batches meet at once, but for 8 bits, whose scales are read from the stream after that.
  template <int most, int batch>
  static constexpr int at_once = small<most, batch> ? most : bits == 8 ? batch : TILES / batch * batch;
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
// product's. Columns without a sequence repeat another, and nobody looks at them.
template <int bits, int inputs, int unit_inputs, bool planes>
struct VectorPart {
  using Number = float;
  static constexpr int chunks = 1;  // of 32 inputs, that are multiplied at once
  static constexpr int pieces = (unit_inputs + 127) / 128;
  Words at[unit_inputs / 32];
  u64 own[pieces];  // for one sequence: this lane's four of 128 inputs, for their sum
  float sum[4];     // of the inputs, by columns
  float more[4];    // for several sequences: of the second four of each lane's eight

  // Without the sums where the vector is used only once: they are found beside its products then.
  DEVICE void load(const Vector& x, int unit, bool with_sums) {
    const u32* from = x.at + unit * (unit_inputs / 2);
    UNROLL
    for (int i = 0; i < pieces && SEQUENCES == 1 && bits < 16; ++i)
      own[i] = 128 * i + 4 * lane() < unit_inputs ? *(const u64*)(from + 64 * i + 2 * lane()) : 0;
    const int column = lane() / 4 < SEQUENCES ? lane() / 4 : SEQUENCES - 1;
    from += column * vector_words(inputs) + 4 * (lane() % 4);
    UNROLL
    for (int i = 0; i < unit_inputs / 32; ++i) at[i] = *(const Words*)(from + 16 * i);
    UNROLL
    for (int k = 0; k < 4; ++k) sum[k] = more[k] = 0;
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
    if (SEQUENCES > 1 && bits < 16) add_sums(at[i].x, at[i].y, sum), add_sums(at[i].z, at[i].w, more);
  }
  DEVICE void end_sums() {
    if (bits == 16) return;
    if (SEQUENCES > 1) {
      sum[0] += more[0], sum[1] += more[1];
      return;
    }
    sum[0] += sum[1];
    sum[0] += from_lane(sum[0], 1), sum[0] += from_lane(sum[0], 2);
  }
};

// In planes: the first column is the high one, the second the low one, and so on.
template <int bits, int inputs, int unit_inputs>
struct VectorPart<bits, inputs, unit_inputs, true> {
  using Number = int;
  static constexpr int chunks = bits == 4 ? 2 : 1;
  Words at[unit_inputs / 64];  // of two chunks
  const Fixed* from;
  Fixed fixed;

  DEVICE void load(const Vector& x, int unit, bool with_sums) {
    const u8* bytes = (const u8*)(x.at + unit * (unit_inputs / 2));
    bytes += lane() / 4 % 2 * unit_inputs + lane() % 4 * (unit_inputs / 4);
    UNROLL
    for (int i = 0; i < unit_inputs / 64; ++i) at[i] = *(const Words*)(bytes + 16 * i);
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
