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
