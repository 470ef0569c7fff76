// Rows of a matrix times a vector, on tensor cores: 16 rows (a tile) and some neighbouring inputs (a unit) at a time.
//
// Weights lie in the stream in the order in which the lanes of a warp need them (tiles.py), so a lane reads 16 bytes at
// once and has its part of a matrix fragment. Inputs are numbered so that a lane's eight neighbouring ones belong to it
// in two products: the vector keeps its natural order. The eight columns of a product are sequences; at batch 1 all are
// the same one.
//
// Weights of 8 and 4 bits become float16 by a mask: bits in the lowest places of an otherwise empty half are a subnormal
// number, q 2^-24, or q 2^-20 four places higher, exact, and tensor cores take subnormal numbers as they are. What must be
// subtracted for the zero point is a multiple of the vector's sum over the unit, found by a product with ones. Sums
// are float32.

#define ROWS 16
#define TILES 8  // at most so many tiles are multiplied between two synchronisations

// Tiles follow each other in the stream in batches. In a batch of n tiles come, unit after unit, the n tiles' parts of it;
// with 4 bits each part ends with pairs of scale and zero point of rows g and g + 8, for g from 0 to 7; with 8 bits a
// batch ends with 16 float scales a tile.
template <int bits, int unit_inputs>
struct Unit {
  static constexpr int bytes = ROWS * unit_inputs * bits / 8 + (bits == 4 ? 4 * ROWS : 0);
  static constexpr int end_bytes = bits == 8 ? 4 * ROWS : 0;  // of a tile
  static_assert(unit_inputs % (bits == 4 ? 64 : 32) == 0, "groups of 4-bit weights must be multiples of 64");
  static_assert(bytes <= TAIL, "a unit that the ring's end cuts is read from its tail");
};

// How a matrix is worked on: its units, how many tiles make a batch, and how many units are read at once (a segment).
struct Plan {
  int units, batch, segment;
};

// A unit's part of the vector as right operands, for any tile: of each lane's eight inputs the first four are one
// product's, but with 4 bits, whose masks find them so, those that are 0 or 1 modulo 4.
template <int bits, int unit_inputs>
struct VectorPart {
  Words at[unit_inputs / 32];
  float sum;

  DEVICE void load(const u32* x) {
    UNROLL
    for (int i = 0; i < unit_inputs / 32; ++i) {
      const Words w = *(const Words*)(x + 16 * i + 4 * (lane() % 4));
      at[i] = bits == 4 ? Words{w.x, w.z, w.y, w.w} : w;
    }
    if (bits == 16) return;
    constexpr u32 one = BF16 ? 0x3f803f80u : 0x3c003c00u;
    float a[4] = {0, 0, 0, 0}, b[4] = {0, 0, 0, 0};
    UNROLL
    for (int i = 0; i < unit_inputs / 32; ++i) {
      mma(a, one, one, one, one, at[i].x, at[i].y);
      mma(b, one, one, one, one, at[i].z, at[i].w);
    }
    sum = a[0] + b[0];
  }
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
};

// The products of rows g and g + 8: without the row's scale for 8 bits.
template <int bits, int unit_inputs>
DEVICE void unit_product(const TilePart<bits, unit_inputs>& w, const VectorPart<bits, unit_inputs>& v, float (&y)[2]) {
  float a[4] = {0, 0, 0, 0}, b[4] = {0, 0, 0, 0};
  if constexpr (bits == 16) {
    UNROLL
    for (int i = 0; i < unit_inputs / 32; ++i) {
      const Words &p = w.at[2 * i], &q = w.at[2 * i + 1];
      mma(a, p.x, p.y, p.z, p.w, v.at[i].x, v.at[i].y);
      mma(b, q.x, q.y, q.z, q.w, v.at[i].z, v.at[i].w);
    }
    y[0] = a[0] + b[0], y[1] = a[2] + b[2];
  } else if constexpr (bits == 8) {
    UNROLL
    for (int i = 0; i < unit_inputs / 32; ++i) {
      const Words& q = w.at[i];  // bytes q + 128: 8 of row g, 8 of row g + 8
      mma(a, pick_bytes(q.x, 0, 0x4140), pick_bytes(q.z, 0, 0x4140), pick_bytes(q.x, 0, 0x4342),
          pick_bytes(q.z, 0, 0x4342), v.at[i].x, v.at[i].y);
      mma(b, pick_bytes(q.y, 0, 0x4140), pick_bytes(q.w, 0, 0x4140), pick_bytes(q.y, 0, 0x4342),
          pick_bytes(q.w, 0, 0x4342), v.at[i].z, v.at[i].w);
    }
    UNROLL
    for (int i = 0; i < 2; ++i) y[i] = fmaf(a[2 * i] + b[2 * i], 0x1p24f, -128.0f * v.sum);
  } else {
    UNROLL
    for (int i = 0; i < unit_inputs / 32; ++i) {
      // Eight inputs of row g and of row g + 8, as nibbles in the order 0 2 4 6 1 3 5 7.
      const Words& q = w.at[i / 2];
      const u32 g = i % 2 ? q.z : q.x, h = i % 2 ? q.w : q.y, g8 = g >> 8, h8 = h >> 8;
      mma(a, g & 0x000f000fu, h & 0x000f000fu, g8 & 0x000f000fu, h8 & 0x000f000fu, v.at[i].x, v.at[i].y);
      mma(b, g & 0x00f000f0u, h & 0x00f000f0u, g8 & 0x00f000f0u, h8 & 0x00f000f0u, v.at[i].z, v.at[i].w);
    }
    UNROLL
    for (int i = 0; i < 2; ++i) {
      const u32 pair = (u32)(w.ends >> 32 * i);  // scale, zero point
      y[i] = low(pair) * fmaf(fmaf(a[2 * i], 16.0f, b[2 * i]), 0x1p20f, -high(pair) * v.sum);
    }
  }
}

// Bytes of the first segment: to be waited for while the vector is still under way.
template <int bits, int unit_inputs>
DEVICE u32 first_segment(const Plan& plan, int count) {
  const int n = count < plan.batch ? count : plan.batch;
  return (u32)(plan.segment < plan.units ? plan.segment : plan.units) * n * Unit<bits, unit_inputs>::bytes;
}

// `count` tiles of the stream from `at` on times the vector x in shared memory; `at` moves on behind them. Units are
// dealt out to the warps, and their sums meet in `partial`, [2][TILES][WARPS][ROWS]. Then `done(tile, row, y)` is called
// by 16 lanes for each tile, lane % 16 = row, and by the rest of their warp with tile = `count`.
template <int bits, int unit_inputs, class Done>
DEVICE void multiply(Ring& ring, u32& at, const u32* x, const Plan& plan, int count, float* partial, Done done) {
  using U = Unit<bits, unit_inputs>;
  static_assert(ROWS * TILES <= THREADS, "a thread for each row of all tiles");
  const int i_of_thread = thread() / ROWS, row = thread() % ROWS;
  float* sums = partial;
  NO_UNROLL
  for (int first = 0; first < count; first += plan.batch) {
    const int n = count - first < plan.batch ? count - first : plan.batch;
    float scale = 1;
    NO_UNROLL
    for (int start = 0; start < plan.units; start += plan.segment) {
      const int end = start + plan.segment < plan.units ? start + plan.segment : plan.units;
      const u32 begin = at;
      at += (u32)((end - start) * n) * U::bytes + (bits == 8 && end == plan.units ? n * U::end_bytes : 0);
      ring.wait(at);
      NO_UNROLL
      for (int unit = start + warp(); unit < end; unit += WARPS) {
        VectorPart<bits, unit_inputs> v;
        v.load(x + unit * (unit_inputs / 2));
        const u32 here = begin + (u32)((unit - start) * n) * U::bytes;
        float* to = sums + warp() * ROWS + lane() / 4;
        TilePart<bits, unit_inputs> next, now;
        next.load(ring.at(here));
        NO_UNROLL
        for (int i = 0; i < n; ++i, to += WARPS * ROWS) {
          now = next;
          next.load(ring.at(here + (u32)(i + 1 < n ? i + 1 : i) * U::bytes));
          float y[2];
          unit_product<bits, unit_inputs>(now, v, y);
          if (lane() % 4 == 0) {
            if (unit >= WARPS) y[0] += to[0], y[1] += to[8];
            to[0] = y[0], to[8] = y[1];
          }
        }
      }
      if (bits == 8 && end == plan.units && i_of_thread < n)
        scale = *(const float*)ring.at(at - n * U::end_bytes + 4 * thread());
      ring.release(at);
    }
    block_sync();
    if (thread() / 32 * 2 < n) {  // whole warps
      float y = 0;
      UNROLL
      for (int k = 0; k < WARPS; ++k)
        if (k < plan.units && i_of_thread < n) y += sums[(i_of_thread * WARPS + k) * ROWS + row];
      done(i_of_thread < n ? first + i_of_thread : count, row, y * scale);
    }
    sums = sums == partial ? partial + TILES * WARPS * ROWS : partial;
  }
}
