// What it costs that all blocks of a persistent kernel hand a vector on to all others, by different means.
//
// Each block owns a part of the vector. In every phase it adds what it has read of the whole to its part, writes the
// part, and reads the whole again: an empty phase of a decoder, whose cost is latency alone. VARIANT chooses how.

typedef unsigned int u32;
typedef unsigned long long u64;

#define THREADS 256
#define COUNTER 0   // numbers, then a counter that all add to and one thread of each block polls
#define PACKETS 1   // each number with the phase's number beside it in 8 bytes: who reads polls the numbers themselves
#define PACKETS16 2 // three numbers and the phase's number in 16 bytes
#define COPIES 3    // as PACKETS, written COPY times, each copy read by its share of the blocks
#define NAP 4       // as PACKETS, with a short sleep between polls

#ifndef COPY
#define COPY 4
#endif

__device__ __forceinline__ u64 packet(float value, u32 tag) { return (u64)tag << 32 | __float_as_uint(value); }
__device__ __forceinline__ void store(u64* to, u64 v) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(v) : "memory");
}
__device__ __forceinline__ void load2(const u64* from, u64& a, u64& b) {
  asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];" : "=l"(a), "=l"(b) : "l"(from) : "memory");
}

__device__ __forceinline__ float block_sum(float v, float* scratch) {
#pragma unroll
  for (int d = 16; d; d /= 2) v += __shfl_xor_sync(~0u, v, d);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int w = 0; w < THREADS / 32; ++w) sum += scratch[w];
  return sum;
}

// SIZE numbers, dealt out evenly. Every block owns some, so nobody can write a phase's numbers before all have read those
// of the phase before the last, which lay in the same place.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    exchange(u64* vector, float* plain, u32* counter, u64* cycles, float* out, int phases) {
  __shared__ float scratch[2][THREADS / 32];
#if VARIANT == PACKETS16
  const int all_parts = SIZE / 3;
#else
  const int all_parts = SIZE;
#endif
  const int first = all_parts * blockIdx.x / gridDim.x, count = all_parts * (blockIdx.x + 1) / gridDim.x - first;
  const bool writes = threadIdx.x < count;
  const int row = first + threadIdx.x;
  float whole = 1.0f;
  u32 target = 0;
  const u64 began = clock64();
  for (int phase = 1; phase <= phases; ++phase) {
    const float mine = whole * 1e-4f + row;
    float sum = 0;
#if VARIANT == COUNTER
    if (writes) plain[row] = mine;
    __syncthreads();
    if (threadIdx.x == 0) {
      u32 seen;
      target += gridDim.x;
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
      do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
      } while ((int)(seen - target) < 0);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < SIZE / 4; i += THREADS) {
      const float4 v = ((const float4*)plain)[i];
      sum += v.x + v.y + v.z + v.w;
    }
    plain += SIZE;  // the next phase writes elsewhere, so that nobody overtakes a reader
    if (phase % 2 == 0) plain -= 2 * SIZE;
#elif VARIANT == PACKETS16
    if (writes) {
      const u32 v = __float_as_uint(mine);
      asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(vector + 2 * row),
                   "r"(v), "r"(v), "r"(v), "r"(phase) : "memory");
    }
    for (int i = threadIdx.x; i < all_parts; i += THREADS) {
      u32 a, b, c, tag;
      do {
        asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(a), "=r"(b), "=r"(c), "=r"(tag)
                     : "l"(vector + 2 * i) : "memory");
      } while (tag != phase);
      sum += __uint_as_float(a) + __uint_as_float(b) + __uint_as_float(c);
    }
    vector += 2 * SIZE;
    if (phase % 2 == 0) vector -= 4 * SIZE;
#else
#if VARIANT == COPIES
    const u64* from = vector + blockIdx.x % COPY * SIZE;
    if (threadIdx.x < 32 * COPY && threadIdx.x % 32 < count) {
      const int to = first + threadIdx.x % 32;
      store(vector + threadIdx.x / 32 * SIZE + to, packet(whole * 1e-4f + to, phase));
    }
#else
    const u64* from = vector;
    if (writes) store(vector + row, packet(mine, phase));
#endif
    constexpr int each = (SIZE / 2 + THREADS - 1) / THREADS;
    u64 a[each], b[each];
    bool all;
    do {
      all = true;
#pragma unroll
      for (int i = 0; i < each; ++i) {
        const int at = threadIdx.x + i * THREADS;
        if (at < SIZE / 2) {
          load2(from + 2 * at, a[i], b[i]);
        } else {
          a[i] = b[i] = packet(0, phase);
        }
      }
#pragma unroll
      for (int i = 0; i < each; ++i) all &= (u32)(a[i] >> 32) == phase && (u32)(b[i] >> 32) == phase;
#if VARIANT == NAP
      if (!all) __nanosleep(20);
#endif
    } while (!all);
#pragma unroll
    for (int i = 0; i < each; ++i) sum += __uint_as_float((u32)a[i]) + __uint_as_float((u32)b[i]);
    vector += COPY * SIZE;
    if (phase % 2 == 0) vector -= 2 * COPY * SIZE;
#endif
    whole = block_sum(sum, scratch[phase % 2]);
  }
  if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - began, out[blockIdx.x] = whole;
}
