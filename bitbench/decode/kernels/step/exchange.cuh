// How blocks hand numbers on to one another: a word of 8 bytes, which is read and written as one, says itself whether it
// is the one that is waited for, and who needs it polls it until it is. Compared with a barrier and a read after it, a
// round trip and a fence are saved (docs/log.md). As with NCCL's LL protocol, no order between different words is relied
// on. A packet is a float and a tag. A quad is four 16-bit numbers, and the lowest bit of the first, which the sender
// rounds to fit, is the tag's lowest: it tells this layer's numbers from the layer's before, and nothing older is left.
//
// A buffer is written once a layer, and tags count layers through all steps. Nobody can write the next layer's numbers
// while somebody still waits for this one's: every block sends a part of `inner`, and only after it has received all
// that comes before; those who receive `inner` send `from_down` after it; and all that the next layer sends depends on
// all of both.

// What was asked for at once is looked at from the last to the first: so all is asked for before anything is waited for,
// which the compiler would not do by itself.
struct Packets {
  u32 differing = 0;

  DEVICE void look(u64 packet, u32 tag) { differing = or_differing(differing, (u32)(packet >> 32), tag); }
  DEVICE bool there() const { return FREE || differing == 0; }
};

struct Quads {  // or others whose lowest bit tells
  u32 differing = 0;

  DEVICE void look(u64 quad, u32 tag) { differing = or_differing(differing, (u32)quad, tag); }
  DEVICE bool there() const { return FREE || (differing & 1) == 0; }
};

// A word on its way; `to` is null where there is none. It is made first and sent later, so that the making of several
// goes on at once.
struct Word {
  u64* to;
  u64 value;

  DEVICE void send() const {
    if (to) store_packet(to, value);
  }
};

DEVICE Word packet(u64* to, float value, u32 tag) { return {to, (u64)tag << 32 | as_bits(value)}; }

// The nearest number whose lowest bit of 16 is the tag's.
DEVICE float marked(float y, u32 tag) {
  constexpr u32 bit = 1u << (BF16 ? 16 : 13);
  const u32 wanted = (tag & 1) * bit;
  return as_float(((as_bits(y) + bit - wanted) & ~(2 * bit - 1)) + wanted);
}

// The first pair is of `marked` and its neighbour. A number too small to be marked is, too.
DEVICE u64 quad(u32 first, u32 second, u32 tag) { return (u64)second << 32 | (first & ~1u) | (tag & 1); }

// Numbers of four neighbouring lanes, a word of the first of them if it is to send. All lanes of a warp call it.
DEVICE Word quad_of_four(u64* to, float y, u32 tag, bool whether) {
  const u32 pair = pack(lane() % 4 ? y : marked(y, tag), from_lane(y, 1)), next = from_lane(pair, 2);
  return {whether && lane() % 4 == 0 ? to : 0, quad(pair, next, tag)};
}

// As `quad_of_four`, of two neighbouring lanes, each with two numbers.
DEVICE Word quad_of_pairs(u64* to, float y, float z, u32 tag, bool whether) {
  const u32 pair = pack(lane() % 2 ? y : marked(y, tag), z), next = from_lane(pair, 1);
  return {whether && lane() % 2 == 0 ? to : 0, quad(pair, next, tag)};
}

// With DELAY: blocks and warps come at other times, and everything must come out the same.
DEVICE void delay() {
  if (DELAY) nap((cycles() + 977 * block() + 71 * warp()) * 2654435761u % (DELAY + 1));
}

// Asks for n pairs of words, again and again, until all are there: `ask(k, a[k], b[k])` loads pair k, or leaves it as it
// is where there is none.
template <int n, class Ask>
DEVICE void poll(u64 (&a)[n], u64 (&b)[n], u32 tag, Ask ask) {
  Quads words;
  do {
    UNROLL
    for (int k = 0; k < n; ++k) {
      a[k] = b[k] = tag & 1;
      ask(k, a[k], b[k]);
    }
    words = Quads();
    UNROLL
    for (int k = n - 1; k >= 0; --k) words.look(b[k], tag), words.look(a[k], tag);
  } while (!words.there());
}

// Waits for `n` pairs of quads of each sequence: `take(sequence, i, a, b)` is called for pair i.
template <int n, class Take>
DEVICE void receive(const u64* from, u32 tag, Take take) {
  constexpr int all = n * SEQUENCES, rounds = (all + THREADS - 1) / THREADS, at_once = rounds < 12 ? rounds : 12;
  NO_UNROLL
  for (int base = thread(); base < all; base += at_once * THREADS) {
    u64 a[at_once], b[at_once];
    poll(a, b, tag, [&](int k, u64& one, u64& next) {
      const int i = base + k * THREADS;
      if (i < all) load_packets(from + 2 * i, one, next);
    });
    UNROLL
    for (int k = 0; k < at_once; ++k) {
      const int i = base + k * THREADS;
      if (i < all) take(SEQUENCES > 1 ? i / n : 0, SEQUENCES > 1 ? i % n : i, a[k], b[k]);
    }
  }
}
