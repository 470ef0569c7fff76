// What compute-sanitizer's racecheck says of a ring that one warp fills by cp.async and another reads, which is right by
// the PTX ISA: the barrier `full` is waited for by every lane that reads, and `empty` is told either by every lane
// (ARRIVE 32) or, as kernels/step/ring.cuh does, by one lane after __syncwarp (ARRIVE 1). HOW 0: the copies arrive at
// `full` themselves (cp.async.mbarrier.arrive), as in kernels/step/sm_80; 1: each lane waits for its copies and arrives;
// 2: plain loads and stores, and each lane arrives.
//
//     nvcc -std=c++17 -arch=compute_80 -DHOW=0 -DARRIVE=1 -o ring racecheck_copies.cu
//     compute-sanitizer --tool racecheck ./ring

#include <cstdio>

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned char u8;

#define SLOTS 4
#define GRANULE 8192
#define GRANULES 100

__device__ u32 address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ void init(u64* b, u32 count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(address(b)), "r"(count) : "memory");
}
__device__ void arrive(u64* b) {
  asm volatile("{.reg .b64 state; mbarrier.arrive.shared.b64 state, [%0];}" ::"r"(address(b)) : "memory");
}
__device__ void wait(u64* b, u32 parity) {
  asm volatile(
      "{\n .reg .pred done;\n again:\n mbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n @!done bra again;\n}" ::"r"(
          address(b)),
      "r"(parity)
      : "memory");
}

__global__ void copied(const u8* from, u32* out) {
  extern __shared__ __align__(1024) u8 ring[];
  __shared__ u64 full[SLOTS], empty[SLOTS];
  const u32 lane = threadIdx.x % 32;
  if (threadIdx.x == 0)
    for (int i = 0; i < SLOTS; ++i) init(full + i, HOW == 0 ? 1 : 32), init(empty + i, ARRIVE);
  __syncthreads();
  if (threadIdx.x >= 32) {
    for (int i = 0; i < GRANULES; ++i, from += GRANULE) {
      const int slot = i % SLOTS;
      u8* const to = ring + slot * GRANULE;
      wait(empty + slot, i / SLOTS % 2 ^ 1);
      for (u32 at = 16 * lane; at < GRANULE; at += 512)
        if (HOW == 2) *(uint4*)(to + at) = *(const uint4*)(from + at);
        else asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address(to + at)), "l"(from + at) : "memory");
      if (HOW == 0) {
        asm volatile("cp.async.mbarrier.arrive.shared.b64 [%0];" ::"r"(address(full + slot)) : "memory");
        __syncwarp();
        if (lane == 0) arrive(full + slot);
      } else {
        if (HOW == 1) asm volatile("cp.async.wait_all;" ::: "memory");
        arrive(full + slot);
      }
    }
  } else {
    u32 sum = 0;
    for (int i = 0; i < GRANULES; ++i) {
      const int slot = i % SLOTS;
      wait(full + slot, i / SLOTS % 2);
      for (u32 j = lane; j < GRANULE / 4; j += 32) sum += ((const u32*)(ring + slot * GRANULE))[j];
      __syncwarp();
      if (ARRIVE == 32 || lane == 0) arrive(empty + slot);
    }
    atomicAdd(out, sum);
  }
}

int main() {
  static u32 numbers[GRANULES * GRANULE / 4];
  u32 expected = 0, found = 0, *sum;
  u8* from;
  for (u32 i = 0; i < sizeof numbers / 4; ++i) expected += numbers[i] = i * 2654435761u;
  cudaMalloc(&from, sizeof numbers), cudaMalloc(&sum, 4), cudaMemset(sum, 0, 4);
  cudaMemcpy(from, numbers, sizeof numbers, cudaMemcpyHostToDevice);
  copied<<<1, 64, SLOTS * GRANULE>>>(from, sum);
  cudaMemcpy(&found, sum, 4, cudaMemcpyDeviceToHost);
  printf("HOW %d ARRIVE %d: %s, %s\n", HOW, ARRIVE, cudaGetErrorString(cudaGetLastError()), found == expected ? "right" : "wrong");
  return found != expected;
}
