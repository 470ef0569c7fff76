// Who copies where there is no engine for it: all lanes of the producer's warp.

#define RESTLESS 1  // the warp is called, not one thread of it

struct Copier {};

// As in sm_90.
template <class>
DEVICE void produce(
    u8* ring, u64* full, u64* empty, Pace pace, const u8* stream, u32 num_granules, u32 num_paced, int num_steps) {
  u32 slot = 0, parity = 1, n = 0;
  NO_UNROLL
  for (int step = 0; step < num_steps; ++step) {
    const u8* from = stream;
    NO_UNROLL
    for (u32 i = 0; i < num_granules; ++i, ++n, from += GRANULE) {
      mbarrier_wait(empty + slot, parity);
      if (i < num_paced) {
        const u32 most = pace.most(), last = n - most;
        if (n >= most) mbarrier_wait(full + last % NUM_GRANULES, last / NUM_GRANULES & 1);
      }
      warp_copy(ring + slot * GRANULE, from, GRANULE);
      if (slot == 0) warp_copy(ring + RING, from, TAIL);
      // The barrier knows of 32 copies before the one arrival that it was made for.
      arrive_with_copies(full + slot);
      warp_sync();
      if (lane() == 0) mbarrier_arrive(full + slot);
      if (++slot == NUM_GRANULES) slot = 0, parity ^= 1;
    }
  }
  for (u32 i = n < NUM_GRANULES ? 0 : n - NUM_GRANULES; i < n; ++i)
    mbarrier_wait(full + i % NUM_GRANULES, i / NUM_GRANULES & 1);
}
