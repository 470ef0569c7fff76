// How blocks hand numbers on to one another: a word of 8 bytes, which is read and written as one, says itself whether it
// is the one that is waited for, and who needs it polls it until it is. Compared with a barrier and a read after it, a
// round trip and a fence are saved (docs/log.md). As with NCCL's LL protocol, no order between different words is relied
// on. A packet is a float and a tag. A quad is four 16-bit numbers, and the lowest bit of the first, which the sender
// rounds to fit, is the tag's lowest: it tells this layer's numbers from the layer's before, and nothing older is left.
//
// A buffer is written once a layer, and tags count layers through all steps. Nobody can write the next layer's numbers
// while somebody still waits for this one's: every block sends a part of `inner`, and only after it has received all that
// comes before; those who receive `inner` send `from_down` after it; and all that the next layer sends depends on all of
// both.

DEVICE bool is_tagged(u64 packet, u32 tag) { return FREE || (u32)(packet >> 32) == tag; }
DEVICE void send(u64* to, u32 value, u32 tag) { store_packet(to, (u64)tag << 32 | value); }
DEVICE void send(u64* to, float value, u32 tag) { send(to, as_bits(value), tag); }

DEVICE bool is_fresh(u64 quad, u32 tag) { return FREE || (((u32)quad ^ tag) & 1) == 0; }

// The nearest number whose lowest bit of 16 is the tag's.
DEVICE float marked(float y, u32 tag) {
  constexpr u32 bit = 1u << (BF16 ? 16 : 13);
  const u32 wanted = (tag & 1) * bit;
  return as_float(((as_bits(y) + bit - wanted) & ~(2 * bit - 1)) + wanted);
}

// The first pair is of `marked` and its neighbour. A number too small to be marked is, too.
DEVICE void send_quad(u64* to, u32 first, u32 second, u32 tag) {
  store_packet(to, (u64)second << 32 | (first & ~1u) | (tag & 1));
}

// Numbers of four neighbouring lanes, sent by the first of them if it is to. All lanes of a warp call it.
DEVICE void send_four(u64* to, float y, u32 tag, bool whether) {
  const u32 pair = pack(lane() % 4 ? y : marked(y, tag), from_lane(y, 1)), next = from_lane(pair, 2);
  if (whether && lane() % 4 == 0) send_quad(to, pair, next, tag);
}

// As `send_four`, of two neighbouring lanes, each with two numbers.
DEVICE void send_pairs(u64* to, float y, float z, u32 tag, bool whether) {
  const u32 pair = pack(lane() % 2 ? y : marked(y, tag), z), next = from_lane(pair, 1);
  if (whether && lane() % 2 == 0) send_quad(to, pair, next, tag);
}

// Waits for one word, looking at nothing else: when it is there, the others are there or will be soon. Blocks look at
// different words, and one warp of each does, since many looks at one place, or at all of them, hold up the weights on
// their way through the same cache (docs/log.md).
template <bool (*is_there)(u64, u32)>
DEVICE void await_one(const u64* word, u32 tag) {
#if WATCH
  if (warp() == 0)
    while (!is_there(load_packet(word), tag)) {
    }
  block_sync();
#endif
}

// With DELAY: blocks and warps come at other times, and everything must come out the same.
DEVICE void delay() {
  if (DELAY) nap((cycles() + 977 * block() + 71 * warp()) * 2654435761u % (DELAY + 1));
}

// Waits for `n` pairs of quads of each sequence, which lie `apart`: `take(sequence, i, a, b)` is called for pair i.
template <int n, class Take>
DEVICE void receive(const u64* from, int apart, u32 tag, Take take) {
  constexpr int all = n * SEQUENCES, rounds = (all + THREADS - 1) / THREADS, at_once = rounds < 6 ? rounds : 6;
  await_one<is_fresh>(from + block() % n * 2, tag);
  NO_UNROLL
  for (int base = thread(); base < all; base += at_once * THREADS) {
    u64 a[at_once], b[at_once];
    bool fresh;
    do {
      fresh = true;
      UNROLL
      for (int k = 0; k < at_once; ++k) {
        const int i = base + k * THREADS;
        a[k] = b[k] = tag;
        if (i < all) load_packets(from + (SEQUENCES > 1 ? i / n * apart + i % n * 2 : 2 * i), a[k], b[k]);
      }
      UNROLL
      for (int k = 0; k < at_once; ++k) fresh &= is_fresh(a[k], tag) && is_fresh(b[k], tag);
    } while (!fresh);
    UNROLL
    for (int k = 0; k < at_once; ++k) {
      const int i = base + k * THREADS;
      if (i < all) take(SEQUENCES > 1 ? i / n : 0, SEQUENCES > 1 ? i % n : i, a[k], b[k]);
    }
  }
}
