// One greedy decode step of a Llama-family model at batch 1 as one persistent kernel, for sm_90 and later.
//
// One block runs on each multiprocessor. Every matrix is dealt out by rows, and what one block reads in a step lies in
// memory as one stream in the order of its reading (stream.py). A producer thread copies the stream by bulk copies into
// a ring in shared memory, as far ahead as the ring is long; it depends on no other block, so the memory stays busy
// while the blocks wait for one another. The other warps read rows from the ring and multiply. Vectors between phases
// go through global memory; after each phase all blocks meet at a barrier.
//
// A layer has five phases: norm and q, k, v with rotation and the cache's append | attention, heads and parts of the
// context over blocks | the parts' sum and o with the residual | norm, gate and up with their product | down with the
// residual. Then norm and lm_head with the argmax.
//
// The plain reference is forward.py. Sums are float32 throughout; weights are widened exactly.

#include <cuda_fp16.h>

typedef unsigned int u32;
typedef unsigned long long u64;

// ---- sizes, given by the launcher as macros: HIDDEN INTER LAYERS HEADS KV_HEADS HEAD_DIM VOCAB EPS; BITS and HEAD_BITS
// (16, 8 or 4) of the layers' and lm_head's weights; GROUP (4 bits only); QKV_BIAS, QK_NORM (0 or 1).
#ifndef WARPS
#define WARPS 8
#endif
#define THREADS (32 * WARPS)
#define BLOCK_THREADS (THREADS + 32)  // the last warp is the producer
#define GRANULE 8192
#define NUM_GRANULES 24
#define RING (GRANULE * NUM_GRANULES)
#define MAX_SPLITS 8
#define Q_SIZE (HEADS * HEAD_DIM)
#define KV_SIZE (KV_HEADS * HEAD_DIM)
#define QKV_PAIRS ((Q_SIZE + 2 * KV_SIZE) / 2)

static_assert(!QK_NORM, "norms on the heads of q and k are not in this kernel yet");

struct Step {
  const unsigned char* streams;   // [blocks] streams, one after another
  u64 stream_stride;              // bytes from one block's stream to the next
  const int* granules;            // [blocks]: how long each is, in granules
  const half* embedding;          // [VOCAB][HIDDEN], 16 bit
  const half* norms;              // [2 * LAYERS + 1][HIDDEN]: input and post norm of each layer, then the last norm
  const half* qkv_bias;           // [LAYERS][Q_SIZE + 2 KV_SIZE] or null
  const half* qk_norms;           // [LAYERS][2][HEAD_DIM] or null
  const float* cos_sin;           // [2][context][HEAD_DIM / 2]
  int context;                    // positions in cos_sin and in the cache
  half* keys;                     // [LAYERS][context][KV_HEADS][HEAD_DIM]
  half* values;
  float* residual;                // [HIDDEN]
  float* query;                   // [Q_SIZE]
  float* partial;                 // [HEADS][MAX_SPLITS][HEAD_DIM + 2]: weighted sum, maximum, sum of weights
  float* inner;                   // [INTER]
  float* logits;                  // [VOCAB] or null
  u64* best;                      // [blocks]: the largest logit of a block's rows and its row
  int* token;                     // the token to read; replaced by the next
  int* position;                  // its position; incremented
  int* output;                    // [context]: the next token is written to output[position + 1]
  u32* barrier;                   // one counter, zero before the first step, never reset
};

// ---- waiting and copying ------------------------------------------------------------------------------------------

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void mbarrier_init(u64* b, u32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count));
}

__device__ __forceinline__ void mbarrier_arrive(u64* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}

__device__ __forceinline__ void mbarrier_expect(u64* b, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void mbarrier_wait(u64* b, u32 parity) {
  asm volatile(
      "{\n .reg .pred done;\n again:\n"
      " mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n @!done bra again;\n}" ::"r"(shared_address(b)),
      "r"(parity)
      : "memory");
}

__device__ __forceinline__ void bulk_copy(void* to, const void* from, u32 bytes, u64* full) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(full))
               : "memory");
}

// All consumer threads of all blocks. `target` is the count at which everyone has arrived.
__device__ __forceinline__ void consumers_sync() { asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory"); }

__device__ __forceinline__ void grid_barrier(u32* counter, u32& target) {
  consumers_sync();
  if (threadIdx.x == 0) {
    u32 seen;
    target += gridDim.x;
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
    } while ((int)(seen - target) < 0);
  }
  consumers_sync();
}

// ---- rows in the ring ---------------------------------------------------------------------------------------------

__host__ __device__ constexpr int row_bytes(int bits, int inputs) {
  return bits == 16  ? 2 * inputs
         : bits == 8 ? inputs + 16                                                          // a float scale, padded
                     : inputs / 2 + (inputs / (GROUP ? GROUP : 1) * 4 + 15) / 16 * 16;  // scale, zero point: half each
}

// Rows [first, first + count) of `rows` belong to this block.
__device__ __forceinline__ void share_of(int rows, int& first, int& count) {
  first = (int)((u64)rows * blockIdx.x / gridDim.x);
  count = (int)((u64)rows * (blockIdx.x + 1) / gridDim.x) - first;
}

struct Ring {
  const unsigned char* bytes;  // [RING], shared
  u64* full;                   // [NUM_GRANULES]
  u64* empty;
  u32 at;        // where in the stream the present phase begins
  u32 passed;    // granules that this warp will not read again

  // Wait until the stream is there up to `end` (exclusive). Copies end in order for no one, so all are waited for.
  __device__ __forceinline__ void wait(u32& waited, u32 end) {
    for (u32 last = (end + GRANULE - 1) / GRANULE; waited < last; ++waited)
      mbarrier_wait(full + waited % NUM_GRANULES, waited / NUM_GRANULES & 1);
  }

  // This warp has read everything before `end`.
  __device__ __forceinline__ void release(u32 end) {
    __syncwarp();
    for (u32 first = end / GRANULE; passed < first; ++passed)
      if (threadIdx.x % 32 == 0) mbarrier_arrive(empty + passed % NUM_GRANULES);
  }
};

// What lies `offset` bytes after the place `base` of the ring.
template <class T>
__device__ __forceinline__ T in_ring(const unsigned char* ring, u32 base, u32 offset) {
  const u32 at = base + offset;
  return *(const T*)(ring + (at < RING ? at : at - RING));
}

// Eight neighbouring weights of the row that begins at the place `row`, as stored (4 and 8 bits: without scale).
template <int bits>
__device__ __forceinline__ void eight_weights(const unsigned char* ring, u32 row, int unit, float (&w)[8]) {
  if constexpr (bits == 16) {
    const uint4 raw = in_ring<uint4>(ring, row, 16 * unit);
    const half2* pairs = (const half2*)&raw;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 two = __half22float2(pairs[i]);
      w[2 * i] = two.x, w[2 * i + 1] = two.y;
    }
  } else if constexpr (bits == 8) {
    const uint2 raw = in_ring<uint2>(ring, row, 8 * unit);
    // Bytes are stored as q + 128; 2^23 + byte is exact in float, and its byte is the lowest of the mantissa.
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      w[i] = __uint_as_float(__byte_perm(raw.x, 0x4B000000u, 0x7540 + i)) - 8388736.0f;
      w[4 + i] = __uint_as_float(__byte_perm(raw.y, 0x4B000000u, 0x7540 + i)) - 8388736.0f;
    }
  } else {
    const u32 raw = in_ring<u32>(ring, row, 4 * unit);
    // Nibbles lie in the order 0 2 4 6 1 3 5 7, so that a mask takes two neighbours into the halves of a word; as
    // mantissas of half they mean 1024 + q (Kim et al., "Who Says Elephants Can't Run", 2022).
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      u32 two;
      asm("lop3.b32 %0, %1, 0x000f000f, 0x64006400, 0xea;" : "=r"(two) : "r"(raw >> (4 * i)));
      half2 q = __hsub2(*(half2*)&two, __half2half2(__ushort_as_half(0x6400)));
      float2 f = __half22float2(q);
      w[2 * i] = f.x, w[2 * i + 1] = f.y;
    }
  }
}

// A vector of `inputs` numbers spread over the lanes of `wpr` warps: lane l of warp k has units k * 32 + l, and so on
// in steps of 32 * wpr; a unit is eight numbers.
template <int inputs>
struct Spread {
  static constexpr int units = inputs / 8;
  static constexpr int wpr = units <= 128 ? 1 : units <= 256 ? 2 : units <= 512 ? 4 : 8;
  static constexpr int per_lane = (units + 32 * wpr - 1) / (32 * wpr);
  float x[per_lane][8];
};

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int d = 16; d; d /= 2) v += __shfl_xor_sync(~0u, v, d);
  return v;
}

// The dot product of one row with the vector, by this warp's share of it; all lanes have the sum over the warp.
template <int bits, int inputs>
__device__ __forceinline__ float dot(const unsigned char* ring, u32 row, const Spread<inputs>& v, int part) {
  constexpr int wpr = Spread<inputs>::wpr;
  const int first = part * 32 + threadIdx.x % 32;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < Spread<inputs>::per_lane; ++i) {
    const int unit = first + i * 32 * wpr;
    if (unit < Spread<inputs>::units) {
      float w[8], s = 0;
      eight_weights<bits>(ring, row, unit, w);
#pragma unroll
      for (int j = 0; j < 8; ++j) s = fmaf(w[j], v.x[i][j], s);
      if constexpr (bits == 4) {
        float total = 0;
#pragma unroll
        for (int j = 0; j < 8; ++j) total += v.x[i][j];
        const half2 sz = in_ring<half2>(ring, row, inputs / 2 + unit * 8 / GROUP * 4);
        sum = fmaf(__low2float(sz), fmaf(-__high2float(sz), total, s), sum);
      } else {
        sum += s;
      }
    }
  }
  sum = warp_sum(sum);
  if constexpr (bits == 8) sum *= in_ring<float>(ring, row, inputs);
  return sum;
}

// This block's share of a matrix: `done(row, values)` is called by one whole warp for each group of `pair` rows that lie
// beside each other, with their products, known to all its lanes.
template <int bits, int inputs, int pair, class Done>
__device__ __forceinline__ void multiply(Ring& ring, const Spread<inputs>& v, int rows, float* scratch, Done done) {
  constexpr int wpr = Spread<inputs>::wpr, groups = WARPS / wpr;
  constexpr u32 bytes = row_bytes(bits, inputs);
  const int warp = threadIdx.x / 32, part = warp % wpr, mine = warp / wpr;
  int first, count;
  share_of(rows, first, count);
  u32 waited = ring.passed;
  for (int base = 0; base < count; base += groups) {
    const int row = base + mine;
    float sums[pair];
    if (row < count) {
      const u32 start = ring.at + (u32)row * pair * bytes;
      ring.wait(waited, start + pair * bytes);
#pragma unroll
      for (int i = 0; i < pair; ++i) sums[i] = dot<bits, inputs>(ring.bytes, (start + i * bytes) % RING, v, part);
    }
    if constexpr (wpr > 1) {  // the warps of a row add up through shared memory, always in the same order
      if (threadIdx.x % 32 == 0)
#pragma unroll
        for (int i = 0; i < pair; ++i) scratch[warp * pair + i] = sums[i];
      consumers_sync();
#pragma unroll
      for (int i = 0; i < pair; ++i) {
        sums[i] = 0;
        for (int k = 0; k < wpr; ++k) sums[i] += scratch[(mine * wpr + k) * pair + i];
      }
      consumers_sync();
    }
    if (row < count && part == 0) done(first + row, sums);
    // The next row of this warp begins there; nothing before it is read again.
    const int next = row + groups < count ? row + groups : count;
    ring.release(ring.at + (u32)next * pair * bytes);
  }
  ring.at += (u32)count * pair * bytes;
  ring.release(ring.at);
}

// ---- vectors ------------------------------------------------------------------------------------------------------

// Plain loads: a barrier's acquire orders them after what other blocks wrote, and warps of a block share them in L1.
template <int inputs>
__device__ __forceinline__ void load_spread(Spread<inputs>& v, const float* from) {
  const int first = threadIdx.x / 32 % Spread<inputs>::wpr * 32 + threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < Spread<inputs>::per_lane; ++i) {
    const int unit = first + i * 32 * Spread<inputs>::wpr;
    const bool mine = unit < Spread<inputs>::units;
    const float4 none = {0, 0, 0, 0};
    const float4 a = mine ? ((const float4*)from)[2 * unit] : none, b = mine ? ((const float4*)from)[2 * unit + 1] : none;
    v.x[i][0] = a.x, v.x[i][1] = a.y, v.x[i][2] = a.z, v.x[i][3] = a.w;
    v.x[i][4] = b.x, v.x[i][5] = b.y, v.x[i][6] = b.z, v.x[i][7] = b.w;
  }
}

// RMSNorm of a vector in global memory that other blocks wrote: float32, rounded to half where transformers rounds.
template <int inputs>
__device__ __forceinline__ void load_normed(Spread<inputs>& v, const float* x, const half* weight, float* scratch) {
  load_spread(v, x);
  float squares = 0;
#pragma unroll
  for (int i = 0; i < Spread<inputs>::per_lane; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j) squares = fmaf(v.x[i][j], v.x[i][j], squares);
  squares = warp_sum(squares);
  constexpr int wpr = Spread<inputs>::wpr;
  if constexpr (wpr > 1) {
    const int warp = threadIdx.x / 32;
    if (threadIdx.x % 32 == 0) scratch[warp] = squares;
    consumers_sync();
    squares = 0;
    for (int k = 0; k < wpr; ++k) squares += scratch[warp / wpr * wpr + k];
    consumers_sync();
  }
  const float scale = rsqrtf(squares / inputs + (float)EPS);
  const int first = threadIdx.x / 32 % wpr * 32 + threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < Spread<inputs>::per_lane; ++i) {
    const int unit = first + i * 32 * wpr;
    if (unit < Spread<inputs>::units) {
      uint4 raw = __ldg((const uint4*)weight + unit);
      const half* w = (const half*)&raw;
#pragma unroll
      for (int j = 0; j < 8; ++j) v.x[i][j] *= scale * __half2float(w[j]);
    }
  }
}

// ---- phases -------------------------------------------------------------------------------------------------------

// q, k and v: rows come in pairs (d, d + HEAD_DIM / 2) of one head, which rotary positions turn against each other.
// With QK_NORM a head must be whole before it is turned: then q and k are written as they are, and attention does the
// rest; that is not in this version.
__device__ __forceinline__ void phase_qkv(const Step& s, Ring& ring, int layer, int position, float* scratch) {
  Spread<HIDDEN> v;
  load_normed(v, s.residual, s.norms + (size_t)2 * layer * HIDDEN, scratch);
  multiply<BITS, HIDDEN, 2>(ring, v, QKV_PAIRS, scratch, [&](int pair, const float(&y)[2]) {
    if (threadIdx.x % 32) return;
    constexpr int turn = HEAD_DIM / 2;
    const int head = pair / turn, d = pair % turn;
    float a = y[0], b = y[1];
    if (QKV_BIAS) {
      const half* bias = s.qkv_bias + (size_t)layer * (Q_SIZE + 2 * KV_SIZE) + head * HEAD_DIM;
      a += __half2float(bias[d]), b += __half2float(bias[d + turn]);
    }
    if (head < HEADS + KV_HEADS) {
      const float c = s.cos_sin[position * turn + d], n = s.cos_sin[(s.context + position) * turn + d];
      const float turned = a * c - b * n;
      b = b * c + a * n, a = turned;
    }
    if (head < HEADS) {
      s.query[head * HEAD_DIM + d] = a, s.query[head * HEAD_DIM + d + turn] = b;
    } else {
      const int kv = head - HEADS;
      half* to = (kv < KV_HEADS ? s.keys : s.values) +
                 (((size_t)layer * s.context + position) * KV_HEADS + kv % KV_HEADS) * HEAD_DIM;
      to[d] = __float2half_rn(a), to[d + turn] = __float2half_rn(b);
    }
  });
}

__device__ __forceinline__ int num_splits(int length) {
  const int most = gridDim.x / HEADS < MAX_SPLITS ? gridDim.x / HEADS : MAX_SPLITS;
  const int wanted = (length + 63) / 64;
  return wanted < 1 ? 1 : wanted > most ? (most < 1 ? 1 : most) : wanted;
}

// One head and one part of the context a block. Eight dimensions a lane; the lanes of a key make a group, and groups
// take every so-many-th position with a running softmax; then they are joined in shared memory, in a fixed order.
__device__ __forceinline__ void phase_attention(const Step& s, int layer, int position, float* scratch) {
  constexpr int lanes = HEAD_DIM / 8, groups = THREADS / lanes;
  const int length = position + 1, splits = num_splits(length);
  for (int work = blockIdx.x; work < HEADS * splits; work += gridDim.x) {
    const int head = work / splits, split = work % splits, kv = head / (HEADS / KV_HEADS);
    const int begin = (int)((long long)length * split / splits), end = (int)((long long)length * (split + 1) / splits);
    const int group = threadIdx.x / lanes, lane = threadIdx.x % lanes;
    float q[8], sum[8] = {0}, most = -1e30f, weights = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) q[i] = s.query[head * HEAD_DIM + lane * 8 + i] * rsqrtf((float)HEAD_DIM);
    for (int base = begin; base < end; base += groups) {  // whole warps go round together, for the shuffles
      const int p = base + group;
      const size_t at = (((size_t)layer * s.context + (p < end ? p : begin)) * KV_HEADS + kv) * HEAD_DIM + lane * 8;
      const uint4 raw = *(const uint4*)(s.keys + at), raw_v = *(const uint4*)(s.values + at);
      const half *k = (const half*)&raw, *v = (const half*)&raw_v;
      float score = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) score = fmaf(q[i], __half2float(k[i]), score);
#pragma unroll
      for (int d = lanes / 2; d; d /= 2) score += __shfl_xor_sync(~0u, score, d);
      if (p < end) {
        const float higher = fmaxf(most, score), old = __expf(most - higher), now = __expf(score - higher);
        weights = weights * old + now, most = higher;
#pragma unroll
        for (int i = 0; i < 8; ++i) sum[i] = sum[i] * old + now * __half2float(v[i]);
      }
    }
    float* mine = scratch + group * (HEAD_DIM + 2);
#pragma unroll
    for (int i = 0; i < 8; ++i) mine[lane * 8 + i] = sum[i];
    if (lane == 0) mine[HEAD_DIM] = most, mine[HEAD_DIM + 1] = weights;
    consumers_sync();
    if (threadIdx.x < HEAD_DIM) {
      float top = -1e30f, total = 0, y = 0;
      for (int g = 0; g < groups; ++g) top = fmaxf(top, scratch[g * (HEAD_DIM + 2) + HEAD_DIM]);
      for (int g = 0; g < groups; ++g) {
        const float* one = scratch + g * (HEAD_DIM + 2);
        const float factor = one[HEAD_DIM + 1] > 0 ? __expf(one[HEAD_DIM] - top) : 0.0f;
        total = fmaf(one[HEAD_DIM + 1], factor, total);
        y = fmaf(one[threadIdx.x], factor, y);
      }
      float* to = s.partial + ((size_t)head * MAX_SPLITS + split) * (HEAD_DIM + 2);
      to[threadIdx.x] = y;
      if (threadIdx.x == 0) to[HEAD_DIM] = top, to[HEAD_DIM + 1] = total;
    }
    consumers_sync();
  }
}

// The parts of each head are joined, by every block for itself, then o adds to the residual.
__device__ __forceinline__ void phase_o(const Step& s, Ring& ring, int position, float* scratch) {
  const int splits = num_splits(position + 1);
  for (int i = threadIdx.x; i < Q_SIZE; i += THREADS) {
    const float* parts = s.partial + (size_t)(i / HEAD_DIM) * MAX_SPLITS * (HEAD_DIM + 2);
    float top = -1e30f, total = 0, y = 0;
    for (int k = 0; k < splits; ++k) top = fmaxf(top, parts[k * (HEAD_DIM + 2) + HEAD_DIM]);
    for (int k = 0; k < splits; ++k) {
      const float* part = parts + k * (HEAD_DIM + 2);
      const float factor = __expf(part[HEAD_DIM] - top);
      total = fmaf(part[HEAD_DIM + 1], factor, total);
      y = fmaf(part[i % HEAD_DIM], factor, y);
    }
    scratch[i] = y / total;
  }
  consumers_sync();
  Spread<Q_SIZE> v;
  load_spread(v, scratch);
  consumers_sync();
  multiply<BITS, Q_SIZE, 1>(ring, v, HIDDEN, scratch, [&](int row, const float(&y)[1]) {
    if (threadIdx.x % 32 == 0) s.residual[row] += y[0];
  });
}

__device__ __forceinline__ void phase_gate_up(const Step& s, Ring& ring, int layer, float* scratch) {
  Spread<HIDDEN> v;
  load_normed(v, s.residual, s.norms + (size_t)(2 * layer + 1) * HIDDEN, scratch);
  multiply<BITS, HIDDEN, 2>(ring, v, INTER, scratch, [&](int row, const float(&y)[2]) {
    if (threadIdx.x % 32 == 0) s.inner[row] = y[0] / (1.0f + __expf(-y[0])) * y[1];
  });
}

__device__ __forceinline__ void phase_down(const Step& s, Ring& ring, float* scratch) {
  Spread<INTER> v;
  load_spread(v, s.inner);
  multiply<BITS, INTER, 1>(ring, v, HIDDEN, scratch, [&](int row, const float(&y)[1]) {
    if (threadIdx.x % 32 == 0) s.residual[row] += y[0];
  });
}

// Larger logits first, and of equal ones the smaller row, as argmax does: both in one number that compares so.
__device__ __forceinline__ u64 ranked(float logit, int row) {
  const u32 raw = __float_as_uint(logit);
  return (u64)(raw & 0x80000000u ? ~raw : raw | 0x80000000u) << 32 | (u32)~row;
}

__device__ __forceinline__ u64 phase_head(const Step& s, Ring& ring, float* scratch) {
  Spread<HIDDEN> v;
  load_normed(v, s.residual, s.norms + (size_t)2 * LAYERS * HIDDEN, scratch);
  u64 best = 0;
  multiply<HEAD_BITS, HIDDEN, 1>(ring, v, VOCAB, scratch, [&](int row, const float(&y)[1]) {
    const u64 one = ranked(y[0], row);
    if (one > best) best = one;
    if (s.logits && threadIdx.x % 32 == 0) s.logits[row] = y[0];
  });
  return best;
}

// ---- the kernel ---------------------------------------------------------------------------------------------------

__device__ __forceinline__ void produce(const Step& s, unsigned char* bytes, u64* full, u64* empty) {
  const unsigned char* stream = s.streams + blockIdx.x * s.stream_stride;
  const u32 num_granules = s.granules[blockIdx.x];
  for (u32 n = 0; n < num_granules; ++n) {
    const u32 slot = n % NUM_GRANULES;
    if (n >= NUM_GRANULES) mbarrier_wait(empty + slot, (n / NUM_GRANULES - 1) & 1);
    mbarrier_expect(full + slot, GRANULE);
    bulk_copy(bytes + slot * GRANULE, stream + (u64)n * GRANULE, GRANULE, full + slot);
  }
  // No copy may be under way when the block ends, and for padding nobody else waits.
  for (u32 n = num_granules < NUM_GRANULES ? 0 : num_granules - NUM_GRANULES; n < num_granules; ++n)
    mbarrier_wait(full + n % NUM_GRANULES, n / NUM_GRANULES & 1);
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, 1) decode_step(const Step* arguments) {
  const Step s = *arguments;
  extern __shared__ __align__(128) unsigned char bytes[];
  __shared__ u64 full[NUM_GRANULES], empty[NUM_GRANULES];
  __shared__ u64 best_of_warp[WARPS];
  __shared__ __align__(16) float scratch[(THREADS / (HEAD_DIM / 8)) * (HEAD_DIM + 2) > Q_SIZE
                               ? (THREADS / (HEAD_DIM / 8)) * (HEAD_DIM + 2)
                               : Q_SIZE];
  if (threadIdx.x == 0) {
    for (int i = 0; i < NUM_GRANULES; ++i) mbarrier_init(full + i, 1), mbarrier_init(empty + i, WARPS);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  if (threadIdx.x >= THREADS) {
    if (threadIdx.x == THREADS) produce(s, bytes, full, empty);
    return;
  }
  Ring ring{bytes, full, empty, 0, 0};
  const int position = *s.position, token = *s.token;
  // The counter never goes back: every step adds the same number of arrivals, so a step begins at a multiple of it.
  u32 target = (u32)(5 * LAYERS + 2) * gridDim.x * (*(volatile u32*)(s.barrier + 1));
  for (int i = blockIdx.x * THREADS + threadIdx.x; i < HIDDEN; i += gridDim.x * THREADS)
    s.residual[i] = __half2float(s.embedding[(size_t)token * HIDDEN + i]);
  grid_barrier(s.barrier, target);
  for (int layer = 0; layer < LAYERS; ++layer) {
    phase_qkv(s, ring, layer, position, scratch);
    grid_barrier(s.barrier, target);
    phase_attention(s, layer, position, scratch);
    grid_barrier(s.barrier, target);
    phase_o(s, ring, position, scratch);
    grid_barrier(s.barrier, target);
    phase_gate_up(s, ring, layer, scratch);
    grid_barrier(s.barrier, target);
    phase_down(s, ring, scratch);
    grid_barrier(s.barrier, target);
  }
  const u64 best = phase_head(s, ring, scratch);
  if (threadIdx.x % 32 == 0) best_of_warp[threadIdx.x / 32] = best;
  consumers_sync();
  if (threadIdx.x == 0) {
    u64 most = 0;
    for (int i = 0; i < WARPS; ++i) most = best_of_warp[i] > most ? best_of_warp[i] : most;
    s.best[blockIdx.x] = most;
  }
  grid_barrier(s.barrier, target);
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    u64 most = 0;
    for (int i = 0; i < gridDim.x; ++i) {
      const u64 one = s.best[i];
      most = one > most ? one : most;
    }
    const int next = (int)~(u32)most;
    *s.token = next, s.output[position + 1] = next, *s.position = position + 1;
    s.barrier[1] += 1;  // steps done
  }
}
