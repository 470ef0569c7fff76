// How many cycles a product of a warp takes on tensor cores (mma.sync), by the kind of numbers, by how many independent
// sums a warp works on and by the warps of a block.
//
//     nvcc -arch=sm_90 -o tensor_rates scripts/tensor_rates.cu && ./tensor_rates

#include <cstdio>

typedef unsigned u32;
#define OPERANDS "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])

enum Kind { F32, F16, U8 };  // of the sums: 16 bits into 32, 16 bits into 16, bytes

template <Kind kind, int chains>
__global__ void rounds(u32* out, int count, const u32* in) {
  float f[chains][4] = {};
  u32 h[chains][2] = {};
  int s[chains][4] = {};
  u32 a[4], b[2];
  for (int i = 0; i < 4; ++i) a[i] = in[threadIdx.x + i];
  for (int i = 0; i < 2; ++i) b[i] = in[threadIdx.x + 9 + i];
  __syncthreads();
  u32 cycles = clock();
#pragma unroll 1
  for (int i = 0; i < count; ++i)
#pragma unroll
    for (int j = 0; j < 4 * chains; ++j) {
      const int c = j % chains;
      if (kind == F32)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                     : "+f"(f[c][0]), "+f"(f[c][1]), "+f"(f[c][2]), "+f"(f[c][3]) : OPERANDS);
      if (kind == F16)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1},{%2,%3,%4,%5},{%6,%7},{%0,%1};"
                     : "+r"(h[c][0]), "+r"(h[c][1]) : OPERANDS);
      if (kind == U8)
        asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                     : "+r"(s[c][0]), "+r"(s[c][1]), "+r"(s[c][2]), "+r"(s[c][3]) : OPERANDS);
    }
  cycles = clock() - cycles;
  u32 sum = 0;
  for (int c = 0; c < chains; ++c) sum += __float_as_uint(f[c][0]) + h[c][0] + s[c][0];
  if (threadIdx.x == 0) out[0] = cycles;
  out[1 + threadIdx.x] = sum;
}

template <Kind kind, int chains>
void run(const char* name, u32* out, const u32* in) {
  for (int warps : {1, 4, 7, 8, 14, 16}) {
    u32 cycles;
    for (int twice = 0; twice < 2; ++twice) rounds<kind, chains><<<1, 32 * warps>>>(out, 200, in);
    cudaMemcpy(&cycles, out, 4, cudaMemcpyDeviceToHost);
    const double each = cycles / (200.0 * 4 * chains);
    printf("%s chains %d warps %d: %.2f cycles a product of a warp, %.2f of a tensor core\n", name, chains, warps, each,
           each / ((warps + 3) / 4));
  }
}

int main() {
  u32 *out, *in;
  cudaMalloc(&out, 1 << 16), cudaMalloc(&in, 1 << 16), cudaMemset(in, 0, 1 << 16);
  run<F32, 1>("f32", out, in), run<F32, 4>("f32", out, in), run<F32, 8>("f32", out, in);
  run<F16, 8>("f16", out, in), run<U8, 8>("u8", out, in);
  cudaFree(out), cudaFree(in);
  return 0;
}
