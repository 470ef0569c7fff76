// The vector of one sequence in fixed point, for weights of 8 and 4 bits, which are multiplied as integers then: 16 bits in
// two planes of bytes, x = (256 high + low) scale, both signed. A warp brings the units that it multiplies, and each unit
// has a scale of its own, so that its largest number is 32,512 = 127 x 256 steps: an error of 1/65,024 of it at most.
//
// In shared memory a unit's high plane comes before its low one, where its 16-bit numbers would be. Within a plane lie
// for each t what lanes with lane % 4 = t multiply: of each chunk of 32 inputs the eight from 8 t on, in two words of four
// bytes, and with 4 bits, where these meet other words of weights, first both chunks' first words and then their second.

struct alignas(8) Fixed {
  float scale, sum;  // of the unit's numbers, in steps
};

// Whether a product's vector is in planes: where a block has so many tiles that they save more than the 200 to 300 cycles
// that planes take (docs/log.md). A warp brings a unit at a time.
DEVICE constexpr bool in_planes(int bits, int inputs, int unit, int most_tiles) {
  return SEQUENCES == 1 && bits < 16 && most_tiles >= 3 && (unit == 128 || (unit == 64 && inputs / unit <= WARPS));
}

// Of each unit that a warp has put into planes: the sum of this lane's numbers, and the largest of all lanes'.
template <int each>
struct PlaneSums {
  int of[each];
  float most[each];
};

// Four neighbouring numbers of this lane for each k that it `has`, into planes at x. With 4 bits the second and third of
// them change places, as they do in a word of weights (tiles.py).
template <int bits, int unit, class Own>
DEVICE void put_planes(const float (&v)[Own::each][4], u32* x, PlaneSums<Own::each>& sums) {
  const int word = lane() / 4 % (unit / 16);
  const int place = bits == 4 ? (word & ~3) + word % 2 * 2 + word / 2 % 2 : word;
  u8* to = (u8*)x + Own::first() / unit * (2 * unit) + lane() % 4 * (unit / 4) + 4 * place;
  UNROLL
  for (int k = 0; k < Own::each; ++k) {
    float most = 1e-30f;
    UNROLL
    for (int j = 0; j < 4; ++j) most = larger(most, magnitude(v[k][j]));
    sums.most[k] = as_float(warp_most(as_bits(most)));
    const float steps = divide_fast(32512.0f, sums.most[k]);
    // In the lowest 16 bits of such a sum is the number rounded to an integer, and 128.
    constexpr float rounder = 12582912.0f + 128.0f;
    u32 n[4];
    UNROLL
    for (int j = 0; j < 4; ++j) n[j] = as_bits(fmaf(v[k][j], steps, rounder));
    const u32 a = n[0], b = bits == 4 ? n[2] : n[1], c = bits == 4 ? n[1] : n[2], d = n[3];
    const u32 high = pick_bytes(pick_bytes(a, b, 0x51), pick_bytes(c, d, 0x51), 0x5410);
    const u32 low = pick_bytes(pick_bytes(a, b, 0x40), pick_bytes(c, d, 0x40), 0x5410) ^ 0x80808080u;
    u32* const both = (u32*)(to + 2 * Own::distance(k));
    if (Own::has(k)) both[0] = high, both[unit / 4] = low;
    sums.of[k] = Own::has(k) ? 256 * sum_of_bytes(high) + sum_of_bytes(low) : 0;
  }
}

// What is known of the units when all lanes' sums are, into their places in `fixed`.
template <int unit, class Own>
DEVICE void put_fixed(const PlaneSums<Own::each>& sums, Fixed* fixed) {
  UNROLL
  for (int k = 0; k < Own::each; ++k) {
    const float sum = (float)warp_total(sums.of[k]);
    if (lane() == 0 && Own::has(k))
      fixed[(Own::first() + Own::distance(k)) / unit] = {sums.most[k] * (1.0f / 32512.0f), sum};
  }
  warp_sync();
}
