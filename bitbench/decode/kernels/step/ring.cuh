// The block's stream of weights on its way through shared memory. A producer thread copies it in pieces (granules),
// as far ahead as the ring is long: it depends on no other block, so memory stays busy while the blocks wait for one
// another. The other warps wait for the granules they read and tell when they will not read them again.

struct Ring {
  const u8* bytes;  // [RING], shared
  u64* full;        // [NUM_GRANULES]: a granule's bytes have arrived
  u64* empty;       // [NUM_GRANULES]: no warp will read it again
  u32 first;        // number of the granule with which this step's stream begins
  u32 waited;       // granules that this warp knows to have arrived
  u32 passed;       // granules that this warp will not read again

  // Where in the ring the byte `offset` of this step's stream lies.
  DEVICE u32 place(u32 offset) const {
    return (first + offset / GRANULE) % NUM_GRANULES * GRANULE + offset % GRANULE;
  }

  template <class T> DEVICE T at(u32 place, u32 offset) const {
    const u32 found = place + offset;
    return *(const T*)(bytes + (found < RING ? found : found - RING));
  }

  // Until the stream is there up to `end`, exclusive. A parity tells two neighbouring rounds of a slot apart, no more,
  // so no granule is skipped, and a slot's rounds are waited for one after another.
  DEVICE void wait(u32 end) { wait_for(first + (end + GRANULE - 1) / GRANULE); }

  DEVICE void wait_for(u32 target) {
    while ((int)(target - waited) > 0) {
      const u32 n = waited + lane();
      if (lane() < NUM_GRANULES && (int)(target - n) > 0) mbarrier_wait(full + n % NUM_GRANULES, n / NUM_GRANULES & 1);
      warp_sync();
      waited = (int)(target - waited) > NUM_GRANULES ? waited + NUM_GRANULES : target;
    }
  }

  // This warp reads nothing before `end` again. What it has not read it waits for all the same, to keep count of rounds.
  DEVICE void release(u32 end) {
    const u32 target = first + end / GRANULE;
    if ((int)(target - passed) <= 0) return;
    wait_for(target);
    warp_sync();
    for (u32 n = passed + lane(); (int)(target - n) > 0; n += 32) mbarrier_arrive(empty + n % NUM_GRANULES);
    passed = target;
  }
};

// One thread copies `num_granules` again and again, for `num_steps` steps.
DEVICE void produce(u8* ring, u64* full, u64* empty, const u8* stream, u32 num_granules, int num_steps) {
  u32 n = 0;
  for (int step = 0; step < num_steps; ++step) {
    for (u32 i = 0; i < num_granules; ++i, ++n) {
      const u32 slot = n % NUM_GRANULES;
      if (n >= NUM_GRANULES) mbarrier_wait(empty + slot, (n / NUM_GRANULES - 1) & 1);
      mbarrier_expect(full + slot, GRANULE);
      bulk_copy(ring + slot * GRANULE, stream + (u64)i * GRANULE, GRANULE, full + slot);
    }
  }
  // No copy may be under way when the block ends, and for padding nobody else waits.
  for (u32 i = n < NUM_GRANULES ? 0 : n - NUM_GRANULES; i < n; ++i)
    mbarrier_wait(full + i % NUM_GRANULES, i / NUM_GRANULES & 1);
}
