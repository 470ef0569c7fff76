// How far lines of L2 are from each multiprocessor, how long a word takes from one to another, and what it saves to hand a
// vector on in several copies, or spread over more lines; and how fast all read the same lines (l2_slices.py).

typedef unsigned int u32;
typedef unsigned long long u64;

#define THREADS 224

__device__ __forceinline__ u64 load(const u64* from) {
  u64 v;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(from) : "memory");
  return v;
}

__device__ __forceinline__ void store(u64* to, u64 v) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(v) : "memory");
}

// cycles[block][line]: the mean of CHAIN loads one after another, the least of several tries. The pool is all 0.
#define CHAIN 8
extern "C" __global__ void latencies(const u64* pool, u32* cycles, int num_lines, int tries) {
  if (threadIdx.x) return;
  for (int l = 0; l < num_lines; ++l) {
    const u64* line = pool + 16 * l;
    u32 least = ~0u;
    u64 v = load(line);
    for (int k = 0; k < tries; ++k) {
      const long long began = clock64();
#pragma unroll
      for (int i = 0; i < CHAIN; ++i) v = load(line + v);
      const u32 took = (u32)(clock64() - began + v);
      least = took < least ? took : least;
    }
    cycles[blockIdx.x * num_lines + l] = least / CHAIN;
  }
}

// Block 0 stores n to `a` and waits for n in `b`, block `other` does the reverse: cycles of all rounds.
extern "C" __global__ void ping_pong(u64* a, u64* b, u64* cycles, int other, int rounds) {
  const bool first = blockIdx.x == 0;
  if (threadIdx.x || (!first && blockIdx.x != other)) return;
  const long long began = clock64();
  for (u64 n = 1; n <= rounds; ++n) {
    if (first) {
      store(a, n);
      while (load(b) != n) {}
    } else {
      while (load(a) != n) {}
      store(b, n);
    }
  }
  if (first) *cycles = clock64() - began;
}

// Every block reads these lines of the pool, all of them in every round, a thread 16 bytes of each of up to READS lines
// before it looks at one: cycles[block] of all rounds.
#define READS 12
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    read_lines(const u64* pool, const int* lines, u64* cycles, u64* out, int num_lines, int rounds) {
  const u64* from[READS];
#pragma unroll
  for (int k = 0; k < READS; ++k) {
    const int line = threadIdx.x / 8 + k * (THREADS / 8);
    from[k] = line < num_lines ? pool + 16 * lines[line] + threadIdx.x % 8 * 2 : 0;
  }
  u64 sum = 0;
  const long long began = clock64();
  for (int round = 0; round < rounds; ++round) {
    u64 v[READS][2];
#pragma unroll
    for (int k = 0; k < READS; ++k) {
      v[k][0] = v[k][1] = 0;
      if (from[k])
        asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];" : "=l"(v[k][0]), "=l"(v[k][1]) : "l"(from[k]) : "memory");
    }
#pragma unroll
    for (int k = 0; k < READS; ++k) sum += v[k][0] + v[k][1];
    if (__syncthreads_or(sum != 0)) break;  // the pool is all 0
  }
  if (threadIdx.x == 0) cycles[blockIdx.x] = clock64() - began, out[blockIdx.x] = sum;
}

// An empty phase of the step kernel: every block writes 16 numbers as four quads (exchange.cuh) into so many copies, and
// reads all of the copy that is its own, each of seven warps its units of 128 numbers; asked for again is what was missing.
// Sectors of four quads lie `sectors` sectors apart.
#define QUADS_A_BLOCK 4
#define EACH 3  // quads a thread reads at most

__device__ __forceinline__ int place(int quad, int sectors) { return quad + (quad & ~3) * (sectors - 1); }

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    exchange(u64* pool, float* out, int copies, int apart, int sectors, int phases) {
  __shared__ float scratch[2][THREADS];
  const int quads = QUADS_A_BLOCK * gridDim.x;
  u64* const halves[2] = {pool, pool + (u64)copies * apart};
  const u64* const from[2] = {halves[0] + blockIdx.x % copies * apart, halves[1] + blockIdx.x % copies * apart};
  float whole = 1.0f;
  for (int phase = 1; phase <= phases; ++phase) {
    const u32 tag = phase / 2 & 1;
    const int parity = phase % 2;
    const u32 value = (__float_as_uint(whole) & ~1u) | tag;
    const u64 quad = (u64)(blockIdx.x + phase) << 32 | value;
    for (int i = threadIdx.x; i < 2 * copies; i += THREADS)
      asm volatile("st.relaxed.gpu.global.v2.u64 [%0], {%1, %2};" ::"l"(
                       halves[parity] + i / 2 * apart + place(QUADS_A_BLOCK * blockIdx.x + i % 2 * 2, sectors)),
                   "l"(quad), "l"(quad) : "memory");
    u64 w[EACH];
#pragma unroll
    for (int k = 0; k < EACH; ++k) w[k] = threadIdx.x + k * THREADS < quads ? tag ^ 1 : tag;
    u32 differing;
    do {
#pragma unroll
      for (int k = 0; k < EACH; ++k)
        asm volatile("{.reg .pred p; setp.ne.u32 p, %2, 0; @p ld.relaxed.gpu.global.u64 %0, [%1];}"
                     : "+l"(w[k]) : "l"(from[parity] + place(threadIdx.x + k * THREADS, sectors)), "r"(((u32)w[k] ^ tag) & 1) : "memory");
      differing = 0;
#pragma unroll
      for (int k = EACH - 1; k >= 0; --k)
        asm volatile("lop3.b32 %0, %1, %2, %3, 0xf6;" : "=r"(differing) : "r"(differing), "r"((u32)w[k]), "r"(tag));
    } while (differing & 1);
    float sum = 0;
#pragma unroll
    for (int k = 0; k < EACH; ++k) sum += (float)(u32)(w[k] >> 32);
    scratch[parity][threadIdx.x] = sum;
    __syncthreads();
    whole = 0;
#pragma unroll
    for (int w = 0; w < 7; ++w) whole += scratch[parity][w * 32 + threadIdx.x % 32];
#pragma unroll
    for (int d = 1; d < 4; d *= 2) whole += __shfl_xor_sync(~0u, whole, d);
  }
  if (threadIdx.x == 0) out[blockIdx.x] = whole;
}
