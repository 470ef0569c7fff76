// How blocks hand numbers on to one another: each travels with a tag in one 8-byte word (a packet), and who needs it
// polls the word until the tag is the one expected. Compared with a barrier and a read after it, a round trip and a
// fence are saved (docs/log.md). As with NCCL's LL protocol, no order between different words is relied on.
//
// A buffer is written once a layer, and tags grow from layer to layer and step to step. Nobody can write the next
// layer's numbers while somebody still waits for this one's: every block sends a part of `inner`, and only after it has
// received all that comes before; those who receive `inner` send `from_down` after it; and all that the next layer
// sends depends on all of both.

DEVICE bool is_tagged(u64 packet, u32 tag) { return FREE || (u32)(packet >> 32) == tag; }
DEVICE void send(u64* to, u32 value, u32 tag) { store_packet(to, (u64)tag << 32 | value); }
DEVICE void send(u64* to, float value, u32 tag) { send(to, as_bits(value), tag); }

// Waits for one of the packets, looking at nothing else: when it is there, the others are there or will be soon. Blocks
// look at different ones of `n` that lie `apart`, and one warp of each does, since many looks at one place, or at all of
// them, hold up the weights on their way through the same cache (docs/log.md).
DEVICE void await_one(const u64* from, int n, int apart, u32 tag) {
  if (warp() == 0)
    while (!is_tagged(load_packet(from + block() % n * apart), tag)) {
    }
  block_sync();
}

// With DELAY: blocks and warps come at other times, and everything must come out the same.
DEVICE void delay() {
  if (DELAY) nap((cycles() + 977 * block() + 71 * warp()) * 2654435761u % (DELAY + 1));
}

// Waits for `n` pairs of packets, three of each thread at a time; `take(at, a, b)` is called for pair `at`.
template <class Take>
DEVICE void receive(const u64* from, int n, u32 tag, Take take) {
  await_one(from, n / 2, 4, tag);
  NO_UNROLL
  for (int base = thread(); base < n; base += 3 * THREADS) {
    u64 a[3], b[3];
    bool all;
    do {
      all = true;
      UNROLL
      for (int i = 0; i < 3; ++i) {
        a[i] = b[i] = (u64)tag << 32;
        if (base + i * THREADS < n) load_packets(from + 2 * (base + i * THREADS), a[i], b[i]);
      }
      UNROLL
      for (int i = 0; i < 3; ++i) all &= is_tagged(a[i], tag) && is_tagged(b[i], tag);
    } while (!all);
    UNROLL
    for (int i = 0; i < 3; ++i)
      if (base + i * THREADS < n) take(base + i * THREADS, (u32)a[i], (u32)b[i]);
  }
}
