// How blocks hand numbers on to one another: each travels with a tag in one 8-byte word (a packet), and who needs it
// polls the word until the tag is the one expected. Compared with a barrier and a read after it, a round trip and a
// fence are saved (docs/log.md). As with NCCL's LL protocol, no order between different words is relied on.
//
// A buffer is written once a layer, and tags grow from layer to layer and step to step. Nobody can write the next
// layer's numbers while somebody still waits for this one's: every block sends a part of `inner`, and only after it has
// received all that comes before; those who receive `inner` send `from_down` after it; and all that the next layer
// sends depends on all of both.

DEVICE void send(u64* to, u32 value, u32 tag) { store_packet(to, (u64)tag << 32 | value); }
DEVICE void send(u64* to, float value, u32 tag) { send(to, as_bits(value), tag); }

// Waits for `n` pairs of packets, in each of `parts` arrays that lie one behind the other, dealt out over the block's
// threads; `take(i, at, part, a, b)` is called for the thread's i-th pair, which is pair `at` of all.
template <int n, int parts, class Take>
DEVICE void receive(const u64* from, u32 tag, Take take) {
  constexpr int each = (n + THREADS - 1) / THREADS, batch = each * parts < 8 ? each : 8 / parts ? 8 / parts : 1;
  UNROLL
  for (int base = 0; base < each; base += batch) {
    u64 a[batch][parts], b[batch][parts];
    bool all;
    do {
      all = true;
      UNROLL
      for (int i = 0; i < batch; ++i) {
        const int at = thread() + (base + i) * THREADS;
        UNROLL
        for (int p = 0; p < parts; ++p)
          if (at < n) load_packets(from + 2 * (p * n + at), a[i][p], b[i][p]);
      }
      UNROLL
      for (int i = 0; i < batch; ++i)
        UNROLL
        for (int p = 0; p < parts; ++p)
          if (thread() + (base + i) * THREADS < n)
            all &= (u32)(a[i][p] >> 32) == tag && (u32)(b[i][p] >> 32) == tag;
    } while (!all);
    UNROLL
    for (int i = 0; i < batch; ++i)
      UNROLL
      for (int p = 0; p < parts; ++p)
        if (thread() + (base + i) * THREADS < n)
          take(base + i, thread() + (base + i) * THREADS, p, (u32)a[i][p], (u32)b[i][p]);
  }
}

// One packet.
DEVICE u32 receive_one(const u64* from, u32 tag) {
  u64 v;
  do v = load_packet(from);
  while ((u32)(v >> 32) != tag);
  return (u32)v;
}
