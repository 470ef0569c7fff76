// The hardware that the step kernel asks for, emulated on a CPU: every thread is a fiber, and whoever waits lets others
// run, in an order drawn anew each round. Copies arrive late and in any order. Only the logic is tested: memory is
// sequentially consistent here.

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <vector>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define DEVICE inline
#define KERNEL static void
#define UNROLL
#define NO_UNROLL

// ---- fibers -------------------------------------------------------------------------------------------------------

struct Meeting {  // of a known number of fibers
  int arrived = 0, round = 0;
};

struct Warp {
  Meeting meeting;
  u64 oversleeps;  // so many rounds
  u64 slot[32];
  u32 operand[32][6];
};

struct Block {
  int index;
  Meeting consumers, all;
  std::vector<Warp> warps;
  u8* shared;
};

struct Copy {
  void* to;
  const void* from;
  u32 bytes;
  u64* full;
};

struct Fiber {
  ucontext_t start;
  jmp_buf at;
  bool started;
  Block* block;
  int thread;
  bool done;
  const char* where;         // what it waits for
  std::vector<Copy> copies;  // that it has asked for, and told no barrier of
};

static jmp_buf scheduler;
static Fiber* current;
static std::vector<Copy> copies;
static int grid_size;
static u64 rounds, rounds_before;  // of this launch and of those before it

// Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators": <random> takes a sixth of the time of
// compiling.
static struct {
  u64 state;
  u32 operator()() {
    u64 z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (u32)(z >> 32);
  }
} dice;

// Jumps, because swapcontext asks the operating system to keep the signal mask, which takes most of the time.
static void resume(Fiber* f) {
  current = f;
  if (_setjmp(scheduler)) return;
  if (f->started) _longjmp(f->at, 1);
  f->started = true;
  setcontext(&f->start);
}

static void yield(const char* where) {
  current->where = where;
  if (!_setjmp(current->at)) _longjmp(scheduler, 1);
}

static void meet(Meeting& m, int size, const char* where) {
  const int round = m.round;
  if (++m.arrived == size) {
    m.arrived = 0, ++m.round;
    return;
  }
  while (m.round == round) yield(where);
}

inline int thread() { return current->thread; }
inline int lane() { return current->thread % 32; }
inline int warp() { return current->thread / 32; }
inline int block() { return current->block->index; }
inline int num_blocks() { return grid_size; }
inline u8* dynamic_shared() { return current->block->shared; }
static Warp& my_warp() { return current->block->warps[warp()]; }

// ---- numbers ------------------------------------------------------------------------------------------------------

template <class To, class From> static To same_bits(From v) {
  To to;
  static_assert(sizeof(To) == sizeof(From), "bits are kept");
  memcpy(&to, &v, sizeof to);
  return to;
}
inline float as_float(u32 v) { return same_bits<float>(v); }
inline u32 as_bits(float v) { return same_bits<u32>(v); }
inline u32 opaque_zero() { return 0; }
template <class T> T found_here(T v) { return v; }
inline u32 pick_bytes(u32 a, u32 b, u32 selector) {
  const u64 both = (u64)b << 32 | a;
  u32 v = 0;
  for (int i = 0; i < 4; ++i) v |= (u32)(both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return v;
}
inline u32 or_differing(u32 a, u32 b, u32 c) { return a | (b ^ c); }
inline float magnitude(float x) { return fabsf(x); }
inline float larger(float x, float y) { return x > y || x != x ? x : y; }
inline int sum_of_bytes(u32 v) {
  int sum = 0;
  for (int i = 0; i < 4; ++i) sum += (signed char)(v >> 8 * i);
  return sum;
}
inline float exp2_fast(float x) { return exp2f(x); }
inline float reciprocal_root(float x) { return 1.0f / sqrtf(x); }
inline u64 nanoseconds() { return rounds_before + rounds; }
inline void nap(u32) { yield("nothing"); }
inline float divide_fast(float a, float b) { return a / b; }
inline u32 cycles() { return (u32)rounds; }
#if BF16
inline float low(u32 v) { return as_float(v << 16); }
inline float high(u32 v) { return as_float(v & 0xffff0000u); }
static u32 round16(float f) {
  const u32 v = as_bits(f);
  return (v + 0x7fffu + (v >> 16 & 1)) >> 16;
}
#else
inline float low(u32 v) { return (float)same_bits<_Float16>((u16)v); }
inline float high(u32 v) { return (float)same_bits<_Float16>((u16)(v >> 16)); }
static u32 round16(float f) { return same_bits<u16>((_Float16)f); }
#endif
inline u32 pack(float first, float second) { return round16(first) | round16(second) << 16; }
inline u32 pair_sum(u32 a, u32 b) { return pack(low(a) + low(b), high(a) + high(b)); }
inline u32 pair_product(u32 a, u32 b) { return pack(low(a) * low(b), high(a) * high(b)); }

// ---- within a block -----------------------------------------------------------------------------------------------

inline void warp_sync() { meet(my_warp().meeting, 32, "its warp"); }
// Some warps oversleep, so that others get far ahead of them.
inline void block_sync() {
  if (lane() == 0) my_warp().oversleeps = dice() % 16 ? 0 : dice() % 128;
  meet(current->block->consumers, THREADS, "its block");
  for (const u64 until = rounds + my_warp().oversleeps; rounds < until;) yield("itself");
}
inline void block_sync_all() { meet(current->block->all, BLOCK_THREADS, "its whole block"); }

template <class T> T of_lane(T v, int from) {
  Warp& w = my_warp();
  u64 raw = 0;
  memcpy(&raw, &v, sizeof v);
  w.slot[lane()] = raw;
  warp_sync();
  memcpy(&v, &w.slot[from], sizeof v);
  warp_sync();
  return v;
}
template <class T> T from_lane(T v, int flip) { return of_lane(v, lane() ^ flip); }

// c += A B of a warp: A 16 x depth, B depth x 8. `product(a, b, k)` is that of the k-th numbers of two words.
template <int depth, class T, class Product>
void multiply_and_add(T (&c)[4], const u32 (&mine)[6], Product product) {
  constexpr int half = depth / 2, word = depth / 8;
  Warp& w = my_warp();
  memcpy(w.operand[lane()], mine, sizeof mine);
  warp_sync();
  for (int i = 0; i < 4; ++i) {
    const int row = lane() / 4 + i / 2 * 8, column = lane() % 4 * 2 + i % 2;
    for (int k = 0; k < depth; ++k) {
      const u32 a = w.operand[row % 8 * 4 + k % half / word][row / 8 + k / half * 2];
      c[i] += product(a, w.operand[column * 4 + k % half / word][4 + k / half], k % word);
    }
  }
  warp_sync();
}
inline void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  multiply_and_add<16>(c, {a0, a1, a2, a3, b0, b1}, [](u32 a, u32 b, int k) {
    return k ? high(a) * high(b) : low(a) * low(b);
  });
}
inline void mma(int (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  multiply_and_add<32>(c, {a0, a1, a2, a3, b0, b1}, [](u32 a, u32 b, int k) {
    return (int)(a >> 8 * k & 255) * (int)(signed char)(b >> 8 * k);
  });
}

template <class T, class Join> T of_warp(T v, Join join) {
  for (int flip = 1; flip < 32; flip *= 2) v = join(v, from_lane(v, flip));
  return v;
}
inline u32 warp_most(u32 v) {
  return of_warp(v, [](u32 a, u32 b) { return a > b ? a : b; });
}
inline bool all_lanes(bool v) {
  return of_warp((int)v, [](int a, int b) { return a & b; });
}
inline int warp_total(int v) {
  return of_warp(v, [](int a, int b) { return a + b; });
}

inline void set_shared(u32* to, u32 v) { *to = v; }
inline u32 get_shared(u32* from) { return *from; }

struct Mbarrier {
  u8 count, pending, phase, made;
  int bytes;  // still to come
};
static Mbarrier& barrier(u64* b) {
  Mbarrier& m = *(Mbarrier*)b;
  if (m.made != 0xb5) abort();  // the hardware stops, too
  return m;
}
inline void mbarrier_init(u64* b, u32 count) { *(Mbarrier*)b = {(u8)count, (u8)count, 0, 0xb5, 0}; }
inline void mbarrier_init_done() {}
inline void mbarrier_arrive(u64* b) {
  Mbarrier& m = barrier(b);
  if (m.pending == 0) abort();
  if (--m.pending == 0) m.pending = m.count, ++m.phase;
}
inline void mbarrier_expect(u64* b, u32 bytes) { barrier(b).bytes += bytes; }  // the last copy arrives for both
inline void mbarrier_wait(u64* b, u32 parity) {
  while ((barrier(b).phase & 1) == parity) yield("an mbarrier");
}

struct Restless {
  void wait(u64* b, u32 parity) {
    if (lane() == 0) mbarrier_wait(b, parity);
    warp_sync();
  }
  bool made_something() const { return false; }
};

// ---- memory -------------------------------------------------------------------------------------------------------

inline u64 read_once_policy() { return 0; }
inline void bulk_copy(void* to, const void* from, u32 bytes, u64* full, u64) {
  memset(to, 0xff, bytes);  // what is read too early is not a number
  copies.push_back({to, from, bytes, full});
}
// A lane's part is one piece here.
inline void warp_copy(u8* to, const u8* from, u32 bytes) {
  const u32 part = bytes / 32, first = lane() * part;
  memset(to + first, 0xff, part);
  current->copies.push_back({to + first, from + first, part, 0});
}
// Whenever all copies that the barrier knows of are there, the last one arrives for them.
inline void arrive_with_copies(u64* b) {
  Mbarrier& m = barrier(b);
  for (Copy& one : current->copies) {
    if (m.bytes == 0) ++m.pending;
    m.bytes += one.bytes, one.full = b;
    copies.push_back(one);
  }
  current->copies.clear();
}
static void some_copies() {
  for (size_t i = 0; i < copies.size();) {
    if (dice() % 4) {
      ++i;
      continue;
    }
    const Copy one = copies[i];
    copies[i] = copies.back(), copies.pop_back();
    memcpy(one.to, one.from, one.bytes);
    if ((barrier(one.full).bytes -= one.bytes) == 0) mbarrier_arrive(one.full);
  }
}

inline void bulk_prefetch(const void* from, u32 bytes) {
  if ((u64)from % 16 || bytes % 16 || !bytes) abort();
}

struct alignas(16) Words {
  u32 x, y, z, w;
};
inline void store_packet(u64* to, u64 v) { *(volatile u64*)to = v; }
template <int n>
inline void load_packets_if(bool whether, const u64* from, u64 (&to)[n]) {
  if ((u64)from % (8 * n)) abort();
  yield("packets");
  for (int i = 0; i < n && whether; ++i) to[i] = ((const volatile u64*)from)[i];
}
inline Words load_words(const void* from) {
  if ((u64)from % 16) abort();
  return *(const Words*)from;
}
inline void fence_all_blocks() {}
template <class T> T load_constant(const T* from) { return *from; }
