// Whether the warp that copies multiplies while it waits. A multiprocessor whose tensor cores work in short bursts runs at
// 10 of 12 cycles, one where some never rest at 11 (docs/decode.md). It makes each copy begin a little later, so where
// copies are many, and the block's pace is told, one thread copies instead.
#define RESTLESS (!PACES)

struct Patient {  // as Restless, for one thread
  DEVICE void wait(u64* b, u32 parity) { mbarrier_wait(b, parity); }
  DEVICE bool made_something() const { return false; }
};

#if RESTLESS
using Copier = Restless;
#else
using Copier = Patient;
#endif

// Copies `num_granules` again and again, for `num_steps` steps; of the first `num_paced` only so many are under way at a
// time. Called by a warp if it is restless, or else by one thread.
template <class Waiter>
DEVICE void produce(
    u8* ring, u64* full, u64* empty, Pace pace, const u8* stream, u32 num_granules, u32 num_paced, int num_steps) {
  const u64 policy = read_once_policy();
  Waiter waiter;
  u32 slot = 0, parity = 1, n = 0;  // a fresh barrier counts as if the round before the first had passed
  NO_UNROLL
  for (int step = 0; step < num_steps; ++step) {
    const u8* from = stream;
    NO_UNROLL
    for (u32 i = 0; i < num_granules; ++i, ++n, from += GRANULE) {
      waiter.wait(empty + slot, parity);
      if (i < num_paced) {
        const u32 most = pace.most(), last = n - most;
        if (n >= most) waiter.wait(full + last % NUM_GRANULES, last / NUM_GRANULES & 1);
      }
      if (thread() == THREADS) {
        mbarrier_expect(full + slot, slot ? GRANULE : GRANULE + TAIL);
        bulk_copy(ring + slot * GRANULE, from, GRANULE, full + slot, policy);
        if (slot == 0) bulk_copy(ring + RING, from, TAIL, full + slot, policy);
      }
      if (++slot == NUM_GRANULES) slot = 0, parity ^= 1;
    }
  }
  if (waiter.made_something()) set_shared(pace.under_way, 0);  // never
  // No copy may be under way when the block ends, and for padding nobody else waits.
  for (u32 i = n < NUM_GRANULES ? 0 : n - NUM_GRANULES; i < n; ++i)
    mbarrier_wait(full + i % NUM_GRANULES, i / NUM_GRANULES & 1);
}
