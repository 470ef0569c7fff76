// A matrix out of the streams as 16-bit numbers in plain order, which is what prompts are multiplied by: a warp a unit of
// a tile (tile.cuh and tiles.py say in what order their numbers lie). Integers are made floats in float32 and rounded
// once. The launcher gives, as macros: BITS (16, 8 or 4), UNIT, BF16; 4 bits are for float16 only, as their scales are.

#define THREADS 256
#define BLOCK_THREADS THREADS
#include "device.cuh"
#include "arguments.cuh"

#define WORDS (UNIT * BITS / 256)  // of 16 bytes, that a lane has of a unit

#define GATHER(FIELD)                                                                                      \
  FIELD(const u8*, packed)  /* all streams */                                                              \
  FIELD(const u64*, units)  /* [num_tiles][num_units]: where each begins, in words of 16 bytes */          \
  FIELD(const u64*, ends)   /* [num_tiles]: where what belongs to a tile begins; read with 8 bits only */  \
  FIELD(u16*, out)          /* [num_rows][inputs] */                                                       \
  FIELD(int, num_tiles)     /* to gather */                                                                \
  FIELD(int, num_units)     /* of a tile */                                                                \
  FIELD(int, part_tiles)    /* of each part of the inputs */                                               \
  FIELD(int, inputs)        /* of a row, all parts' together */                                            \
  FIELD(int, num_rows)      /* tiles may have more */                                                      \
  FIELD(int, pairs)         /* if not 0, the rows of each of two matrices, of which a tile has eight and eight */

struct Gather {
  GATHER(AS_MEMBER)
};

// Eight neighbouring numbers of a row, as one lane has them: those of row g (0) or g + 8 (1), of chunk `chunk` of 32.
DEVICE Words numbers(const Words (&w)[WORDS], int chunk, int half, float scale, float zero) {
#if BITS == 16
  const Words &p = w[2 * chunk], &q = w[2 * chunk + 1];
  return half ? Words{p.y, p.w, q.y, q.w} : Words{p.x, p.z, q.x, q.z};
#else
  u32 pairs[4];
#if BITS == 8
  const u32 first = half ? w[chunk].z : w[chunk].x, second = half ? w[chunk].w : w[chunk].y;
  UNROLL
  for (int j = 0; j < 4; ++j) {
    const u32 two = (j < 2 ? first : second) >> 16 * (j % 2);
    pairs[j] = pack(((int)(two & 255) - 128) * scale, ((int)(two >> 8 & 255) - 128) * scale);
  }
#else
  const Words& q = w[chunk / 2];
  const u32 eight = chunk % 2 ? (half ? q.w : q.z) : (half ? q.y : q.x);
  UNROLL
  for (int j = 0; j < 4; ++j) {
    const int nibble = j % 2 * 2 + j / 2;
    pairs[j] = pack(((eight >> 4 * nibble & 15) - zero) * scale, ((eight >> (16 + 4 * nibble) & 15) - zero) * scale);
  }
#endif
  return {pairs[0], pairs[1], pairs[2], pairs[3]};
#endif
}

DEVICE void gather(const Gather& s, int tile, int unit) {
  const u8* from = s.packed + 16 * s.units[(u64)tile * s.num_units + unit];
  const int g = lane() / 4, part = tile / s.part_tiles, of_part = tile % s.part_tiles;
  const int column = (part * s.num_units + unit) * UNIT + 8 * (lane() % 4);
  Words w[WORDS];
  UNROLL
  for (int i = 0; i < WORDS; ++i) w[i] = load_words(from + 512 * i + 16 * lane());
  UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = s.pairs ? half * s.pairs + 8 * of_part + g : 16 * of_part + 8 * half + g;
    if (row >= s.num_rows) continue;
    float scale = 1, zero = 0;
#if BITS == 8
    scale = load_constant((const float*)(s.packed + 16 * s.ends[tile]) + 8 * half + g);
#elif BITS == 4
    const u32 both = load_constant((const u32*)(from + 512 * WORDS) + 2 * g + half);
    scale = low(both), zero = high(both);
#endif
    UNROLL
    for (int chunk = 0; chunk < UNIT / 32; ++chunk)
      *(Words*)(s.out + (u64)row * s.inputs + column + 32 * chunk) = numbers(w, chunk, half, scale, zero);
  }
}

KERNEL gather_matrix(PARAMETERS(GATHER)) {
  const Gather s = {GATHER(AS_VALUE)};
  const int all = s.num_tiles * s.num_units;
  for (int i = block() * (THREADS / 32) + warp(); i < all; i += num_blocks() * (THREADS / 32))
    gather(s, i / s.num_units, i % s.num_units);
}
