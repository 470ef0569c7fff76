// What the step kernel asks of the hardware, for sm_90 and later: everything else in this folder is plain C++.
// tests/decode/emulator holds the same functions for a CPU, so that the kernel's logic is tested without a GPU.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, 1)
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("unroll 1")

DEVICE int thread() { return threadIdx.x; }
DEVICE int lane() { return threadIdx.x % 32; }
DEVICE int warp() { return threadIdx.x / 32; }
DEVICE int block() { return blockIdx.x; }
DEVICE int num_blocks() { return gridDim.x; }
DEVICE u8* dynamic_shared() {
  extern __shared__ __align__(1024) u8 dynamic[];
  // In a register from here on: the compiler would look up where the block's memory begins wherever it is used. With more
  // sequences registers are too few.
  u32 address = (u32)__cvta_generic_to_shared(dynamic);
#if SEQUENCES == 1
  asm volatile("" : "+r"(address));
#endif
  return (u8*)__cvta_shared_to_generic(address);
}

// ---- numbers ------------------------------------------------------------------------------------------------------

DEVICE float as_float(u32 v) { return __uint_as_float(v); }
DEVICE u32 as_bits(float v) { return __float_as_uint(v); }
DEVICE u32 pick_bytes(u32 a, u32 b, u32 selector) { return __byte_perm(a, b, selector); }
// a | (b ^ c), in this order: the compiler cannot look at b before it has a.
DEVICE u32 or_differing(u32 a, u32 b, u32 c) {
  u32 v;
  asm volatile("lop3.b32 %0, %1, %2, %3, 0xf6;" : "=r"(v) : "r"(a), "r"(b), "r"(c));
  return v;
}
// A zero that the compiler keeps where it is, among the registers of an operand, instead of making it anew for each use.
DEVICE u32 opaque_zero() {
  u32 v;
  asm volatile("mov.b32 %0, 0;" : "=r"(v));
  return v;
}
// Found here and kept in a register: the compiler would find what is cheap where it is used, when others wait for it.
DEVICE u32 found_here(u32 v) {
  asm volatile("" : "+r"(v));
  return v;
}
template <class T> DEVICE T* found_here(T* p) {
  asm volatile("" : "+l"(p));
  return p;
}
DEVICE float magnitude(float x) { return fabsf(x); }
DEVICE float larger(float x, float y) {  // not a number where one is none
  float v;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(v) : "f"(x), "f"(y));
  return v;
}
// Of four signed bytes.
DEVICE int sum_of_bytes(u32 v) { return __dp4a((int)v, 0x01010101, 0); }
DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEVICE float reciprocal_root(float x) {  // to 2 ulp
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEVICE u64 nanoseconds() {
  u64 t;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
  return t;
}
DEVICE void nap(u32 nanoseconds) { asm volatile("nanosleep.u32 %0;" ::"r"(nanoseconds)); }
DEVICE float divide_fast(float a, float b) {  // to 2 ulp
  float q;
  asm("div.approx.ftz.f32 %0, %1, %2;" : "=f"(q) : "f"(a), "f"(b));
  return q;
}
DEVICE u32 cycles() { return (u32)clock64(); }

// Two 16-bit numbers in a word, the first in its low half.
#if BF16
DEVICE float low(u32 v) { return __uint_as_float(v << 16); }
DEVICE float high(u32 v) { return __uint_as_float(v & 0xffff0000u); }
DEVICE u32 pack(float first, float second) {
  u32 v;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(second), "f"(first));
  return v;
}
#define MMA_TYPES "f32.bf16.bf16.f32"
#define PAIR_TYPE "bf16x2"
#else
DEVICE float low(u32 v) {
  float f;
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(f) : "r"(v));
  return f;
}
DEVICE float high(u32 v) {
  float f;
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h;}" : "=f"(f) : "r"(v));
  return f;
}
DEVICE u32 pack(float first, float second) {
  u32 v;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(second), "f"(first));
  return v;
}
#define MMA_TYPES "f32.f16.f16.f32"
#define PAIR_TYPE "f16x2"
#endif
DEVICE u32 pair_sum(u32 a, u32 b) {
  u32 v;
  asm("add.rn." PAIR_TYPE " %0, %1, %2;" : "=r"(v) : "r"(a), "r"(b));
  return v;
}
DEVICE u32 pair_product(u32 a, u32 b) {
  u32 v;
  asm("mul.rn." PAIR_TYPE " %0, %1, %2;" : "=r"(v) : "r"(a), "r"(b));
  return v;
}

// c += A B on one warp's tensor cores: A 16 x 16, B 16 x 8, both of 16-bit numbers (PTX ISA, mma.m16n8k16). With
// g = lane / 4 and t = lane % 4: a = A[g][2t, 2t+1], A[g+8][2t, 2t+1], A[g][2t+8, 2t+9], A[g+8][2t+8, 2t+9];
// b = B[2t, 2t+1][g], B[2t+8, 2t+9][g]; c = C[g][2t], C[g][2t+1], C[g+8][2t], C[g+8][2t+1].
DEVICE void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col." MMA_TYPES " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// c += A B on integers: A 16 x 32 of unsigned bytes, B 32 x 8 of signed ones (PTX ISA, mma.m16n8k32). a = A[g][4t..4t+3],
// A[g+8][the same], A[g][16+4t..], A[g+8][the same]; b = B[4t..4t+3][g], B[16+4t..][g]; c as above.
DEVICE void mma(int (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// ---- within a block -----------------------------------------------------------------------------------------------

template <class T> DEVICE T from_lane(T v, int flip) { return __shfl_xor_sync(~0u, v, flip); }
DEVICE float of_lane(float v, int lane) { return __shfl_sync(~0u, v, lane); }
DEVICE bool all_lanes(bool v) { return __all_sync(~0u, v); }
DEVICE u32 warp_most(u32 v) { return __reduce_max_sync(~0u, v); }
DEVICE int warp_total(int v) { return __reduce_add_sync(~0u, v); }
DEVICE void warp_sync() { __syncwarp(); }
DEVICE void block_sync_all() { __syncthreads(); }
// The warps that multiply, without the producer.
DEVICE void block_sync() { asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory"); }

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
// What one thread tells another, which may hear of it whenever it likes.
DEVICE void set_shared(u32* to, u32 v) {
  asm volatile("{.reg .u32 old; atom.relaxed.cta.shared::cta.exch.b32 old, [%0], %1;}" ::"r"(shared_address(to)), "r"(v)
               : "memory");
}
DEVICE u32 get_shared(u32* from) {
  u32 v;
  asm volatile("atom.relaxed.cta.shared::cta.or.b32 %0, [%1], 0;" : "=r"(v) : "r"(shared_address(from)) : "memory");
  return v;
}
#include "barriers.cuh"
// ---- memory -------------------------------------------------------------------------------------------------------

#include "copies.cuh"
struct alignas(16) Words {
  u32 x, y, z, w;
};

// A number and its tag arrive together: 8 bytes are read and written as one (PTX ISA, memory consistency model).
DEVICE void store_packet(u64* to, u64 v) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(v) : "memory");
}
// What `to` is stays where it is not to be loaded: no branch, so that several are under way at once.
DEVICE void load_packets_if(bool whether, const u64* from, u64 (&to)[1]) {
  asm volatile("{.reg .pred p; setp.ne.u32 p, %2, 0; @p ld.relaxed.gpu.global.u64 %0, [%1];}"
               : "+l"(to[0])
               : "l"(from), "r"((u32)whether)
               : "memory");
}
DEVICE void load_packets_if(bool whether, const u64* from, u64 (&to)[2]) {
  asm volatile("{.reg .pred p; setp.ne.u32 p, %3, 0; @p ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];}"
               : "+l"(to[0]), "+l"(to[1])
               : "l"(from), "r"((u32)whether)
               : "memory");
}
// Written by other blocks of this launch perhaps, so never from L1.
DEVICE Words load_words(const void* from) {
  Words v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}
DEVICE void fence_all_blocks() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
template <class T> DEVICE T load_constant(const T* from) { return __ldg(from); }
