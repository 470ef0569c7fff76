// The block's stream of weights on its way through shared memory. A producer warp copies it in pieces (granules),
// as far ahead as the ring is long: it depends on no other block, so memory stays busy while the blocks wait for one
// another. The other warps wait for the granules they read and tell when they will not read them again.

static_assert(NUM_GRANULES <= 32, "a lane for each granule");
static_assert(IN_FLIGHT >= 1 && IN_FLIGHT < NUM_GRANULES, "weights that are waited for must be under way");
static_assert(IN_FLIGHT_BUSY >= 1 && IN_FLIGHT_BUSY < NUM_GRANULES, "more than the ring holds are never under way");

struct Ring {
  const u8* bytes;  // [RING + TAIL], shared; the tail repeats the beginning
  u64* full;        // [NUM_GRANULES]: a granule's bytes have arrived
  u64* empty;       // [NUM_GRANULES]: no warp will read it again
  u32 first;        // number of the granule with which this step's stream begins
  u32 at;           // bytes of this step's stream that have been taken
  u32 here;         // where in the ring the next begin
  u32 waited;       // granules that this warp knows to have arrived
  u32 passed;       // granules that this warp will not read again

  // What comes less than a ring's length after a place.
  DEVICE static u32 onward(u32 place, u32 by) { return place + by < RING ? place + by : place + by - RING; }

  // Where the stream's next bytes lie in the ring, and up to TAIL behind them.
  DEVICE u32 take(u32 count) {
    const u32 from = here;
    at += count, here = onward(here, count);
    return from;
  }

  // Until the next bytes are there. A parity tells two neighbouring rounds of a slot apart, no more, so no granule is
  // skipped. Every lane waits itself for what it is going to read: that takes a while for each granule, and nothing where
  // the block waits for others anyway.
  DEVICE void wait(u32 count) {
    const u32 target = behind(at + count);
    NO_UNROLL
    for (; (int)(target - waited) > 0; ++waited) mbarrier_wait(full + waited % NUM_GRANULES, waited / NUM_GRANULES & 1);
  }

  // Until all that has been taken is there, with a lane for each granule, and never for more at once than the ring has.
  DEVICE void wait_for_taken() { wait_together(behind(at)); }

  // This warp reads nothing before `end` again, and it has waited for all of that.
  DEVICE void release(u32 end) {
    const u32 target = first + end / GRANULE, n = passed + lane();
    warp_sync();
    if ((int)(target - n) > 0) mbarrier_arrive(empty + n % NUM_GRANULES);
    passed = target;
  }

  // Over what the step leaves, which nobody has waited for.
  DEVICE void next_step(u32 num_granules) {
    wait_together(first + num_granules);
    release(num_granules * GRANULE);
    first += num_granules, at = 0, here = first % NUM_GRANULES * GRANULE;
  }

 private:
  DEVICE u32 behind(u32 end) const { return first + (end + GRANULE - 1) / GRANULE; }

  DEVICE void wait_together(u32 target) {
    if ((int)(target - waited) <= 0) return;
    const u32 n = waited + lane();
    if ((int)(target - n) > 0) mbarrier_wait(full + n % NUM_GRANULES, n / NUM_GRANULES & 1);
    warp_sync();
    waited = target;
  }
};

// How many granules are asked for and not there yet, at most, until lm_head: what the blocks exchange would queue up behind
// more, and memory is kept busy by so many (docs/log.md). Where it depends on whether the block waits for others or
// multiplies, the block tells.
#define PACES (IN_FLIGHT_BUSY != IN_FLIGHT)

struct Pace {
  u32* under_way;

  DEVICE void waiting() const {
    if (PACES && thread() == 0) set_shared(under_way, IN_FLIGHT);
  }
  DEVICE void multiplying() const {
    if (PACES && thread() == 0) set_shared(under_way, IN_FLIGHT_BUSY);
  }
  DEVICE u32 most() const { return PACES ? get_shared(under_way) : IN_FLIGHT; }
};

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
