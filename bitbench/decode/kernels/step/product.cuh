// Rows of a matrix times a vector, on tensor cores: 16 rows (a tile) and a few inputs at a time.
//
// Weights lie in the stream in the order in which the lanes of a warp need them (stream.py), so a lane reads 16 bytes
// at once and has its part of a matrix fragment. Inputs are numbered so that a lane's eight neighbouring ones belong to
// it in two products: the vector keeps its natural order. The eight columns of the product are sequences; at batch 1
// only the first is used. Weights of 8 and 4 bits become 16-bit numbers q + offset, exact, by putting their bits into a
// mantissa (Kim et al., "Who Says Elephants Can't Run", 2022); a second product, with a matrix of ones, tells what to
// subtract. Sums are float32.

#define ROWS 16
#define TILES 8  // at most so many tiles are multiplied between two synchronisations

// How a tile of `inputs` inputs lies in the stream: units one after another, each of neighbouring inputs; with 4 bits,
// each ends with 16 pairs of scale and zero point, with 8 bits the tile ends with 16 float scales.
template <int bits, int inputs>
struct Tile {
  static constexpr int unit_inputs = bits == 4 ? GROUP : inputs % 128 == 0 ? 128 : inputs % 64 == 0 ? 64 : 32;
  static constexpr int units = inputs / unit_inputs;
  static constexpr int unit_bytes = ROWS * unit_inputs * bits / 8 + (bits == 4 ? 4 * ROWS : 0);
  static constexpr int bytes = units * unit_bytes + (bits == 8 ? 4 * ROWS : 0);
  static_assert(inputs % unit_inputs == 0, "inputs must be whole units");
  static_assert(bits != 4 || unit_inputs % 64 == 0, "groups of 4-bit weights must be multiples of 64");
};

// Exponents that put a weight's bits at the lowest place of a float16 mantissa, or four bits higher.
#define MANTISSA_1024 0x64006400u
#define MANTISSA_64 0x54005400u

// This lane's eight inputs of a chunk of 32: of the sequence in column lane / 4, so at batch 1 of the first four lanes.
DEVICE Words vector_part(const u32* x, int chunk) {
  Words v = {0, 0, 0, 0};
  if (lane() < 4) v = *(const Words*)(x + 16 * chunk + 4 * lane());
  return v;
}

// total[i] += this unit's product, laid out as the fragment c of `mma`.
template <int bits>
DEVICE void unit_product(const Ring& ring, u32 place, const u32* x, int unit_inputs, float (&total)[4]) {
  float even[4] = {0, 0, 0, 0}, odd[4] = {0, 0, 0, 0}, ones[4] = {0, 0, 0, 0};
  constexpr u32 one = BF16 ? 0x3f803f80u : 0x3c003c00u;
  if constexpr (bits == 16) {
    UNROLL
    for (int chunk = 0; chunk < unit_inputs / 32; ++chunk) {
      const Words v = vector_part(x, chunk);
      const Words a = ring.at<Words>(place, 1024 * chunk + 16 * lane());
      const Words b = ring.at<Words>(place, 1024 * chunk + 512 + 16 * lane());
      mma(even, a.x, a.y, a.z, a.w, v.x, v.y);
      mma(odd, b.x, b.y, b.z, b.w, v.z, v.w);
    }
    UNROLL
    for (int i = 0; i < 4; ++i) total[i] += even[i] + odd[i];
  } else if constexpr (bits == 8) {
    UNROLL
    for (int chunk = 0; chunk < unit_inputs / 32; ++chunk) {
      const Words v = vector_part(x, chunk);
      const Words q = ring.at<Words>(place, 512 * chunk + 16 * lane());  // bytes q + 128: 8 of row g, 8 of row g + 8
      mma(even, pick_bytes(q.x, MANTISSA_1024, 0x5150), pick_bytes(q.z, MANTISSA_1024, 0x5150),
          pick_bytes(q.x, MANTISSA_1024, 0x5352), pick_bytes(q.z, MANTISSA_1024, 0x5352), v.x, v.y);
      mma(odd, pick_bytes(q.y, MANTISSA_1024, 0x5150), pick_bytes(q.w, MANTISSA_1024, 0x5150),
          pick_bytes(q.y, MANTISSA_1024, 0x5352), pick_bytes(q.w, MANTISSA_1024, 0x5352), v.z, v.w);
      mma(ones, one, one, one, one, v.x, v.y);
      mma(ones, one, one, one, one, v.z, v.w);
    }
    UNROLL
    for (int i = 0; i < 4; ++i) total[i] += fmaf(-(1024.0f + 128.0f), ones[i], even[i] + odd[i]);
  } else {
    UNROLL
    for (int half = 0; half < unit_inputs / 64; ++half) {
      const Words q = ring.at<Words>(place, 512 * half + 16 * lane());  // two chunks, of each rows g and g + 8
      UNROLL
      for (int i = 0; i < 2; ++i) {
        const Words v = vector_part(x, 2 * half + i);
        const u32 g = i ? q.z : q.x, h = i ? q.w : q.y;
        // A word's nibbles are the inputs 0 2 4 6 1 3 5 7; as bits 4 to 7 of a mantissa they mean 64 + q.
        mma(even, g << 4 & 0x00f000f0u | MANTISSA_64, h << 4 & 0x00f000f0u | MANTISSA_64, g & 0x00f000f0u | MANTISSA_64,
            h & 0x00f000f0u | MANTISSA_64, v.x, v.y);
        mma(odd, g >> 4 & 0x00f000f0u | MANTISSA_64, h >> 4 & 0x00f000f0u | MANTISSA_64,
            g >> 8 & 0x00f000f0u | MANTISSA_64, h >> 8 & 0x00f000f0u | MANTISSA_64, v.z, v.w);
        mma(ones, one, one, one, one, v.x, v.y);
        mma(ones, one, one, one, one, v.z, v.w);
      }
    }
    const u32 ends = ROWS * unit_inputs / 2;
    UNROLL
    for (int i = 0; i < 2; ++i) {
      const u32 pair = ring.at<u32>(place, ends + 4 * (8 * i + lane() / 4));
      const float scale = low(pair), offset = 64.0f + high(pair);
      UNROLL
      for (int j = 2 * i; j < 2 * i + 2; ++j)
        total[j] = fmaf(scale, fmaf(-offset, ones[j], even[j] + odd[j]), total[j]);
    }
  }
}

// `count` tiles of the stream from `at` on times the vector x in shared memory; `at` moves on behind them. A tile's
// units are dealt out to the warps, and their sums meet in `partial`, [2][TILES][WARPS][ROWS]. Then `done(tile, row, y)`
// is called by 16 lanes for each tile, lane % 16 = row, and by the rest of their warp with tile = `count`.
template <int bits, int inputs, class Done>
DEVICE void multiply(Ring& ring, u32& at, const u32* x, int count, float* partial, Done done) {
  using T = Tile<bits, inputs>;
  static_assert(ROWS * TILES <= THREADS, "a thread for each row of all tiles");
  for (int first = 0; first < count; first += TILES) {
    const int n = count - first < TILES ? count - first : TILES;
    float* sums = partial + first / TILES % 2 * (TILES * WARPS * ROWS);
    for (int i = 0; i < n; ++i) {
      const u32 tile = at + (u32)(first + i) * T::bytes;
      // Which unit is the first of this warp's: tiles with fewer units than warps begin where the one before ended.
      int unit = (warp() + WARPS - i * T::units % WARPS) % WARPS;
      if (unit >= T::units) continue;
      float total[4] = {0, 0, 0, 0};
      for (; unit < T::units; unit += WARPS) {
        const u32 begin = tile + unit * T::unit_bytes;
        ring.release(begin);  // a batch of tiles may be longer than the ring
        ring.wait(begin + T::unit_bytes);
        unit_product<bits>(ring, ring.place(begin), x + unit * (T::unit_inputs / 2), T::unit_inputs, total);
      }
      if constexpr (bits == 8) {
        const u32 scales = tile + T::units * T::unit_bytes;
        ring.wait(scales + 4 * ROWS);
        const u32 place = ring.place(scales);
        UNROLL
        for (int k = 0; k < 4; ++k) total[k] *= ring.at<float>(place, 4 * (k / 2 * 8 + lane() / 4));
      }
      if (lane() % 4 == 0) {
        float* to = sums + (i * WARPS + warp()) * ROWS + lane() / 4;
        to[0] = total[0], to[8] = total[2];
      }
    }
    ring.release(at + (u32)(first + n) * T::bytes);
    block_sync();
    const int i = thread() / ROWS, row = thread() % ROWS;
    if (thread() / 32 * 2 < n) {  // whole warps
      float y = 0;
      if (i < n) {
        UNROLL
        for (int k = 0; k < (T::units < WARPS ? T::units : WARPS); ++k)
          y += sums[(i * WARPS + (i * T::units + k) % WARPS) * ROWS + row];
      }
      done(i < n ? first + i : count, row, y);
    }
  }
  at += (u32)count * T::bytes;
}
