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

// Whether words are those of a tag. What was asked for at once is looked at from the last to the first: so all is asked
// for before anything is waited for, which the compiler would not do by itself.
struct Packets {
  u32 differing = 0;

  DEVICE static u64 none(u32 tag) { return (u64)tag << 32; }
  DEVICE static u64 other(u32 tag) { return (u64)~tag << 32; }
  DEVICE static bool missing(u64 packet, u32 tag) { return (u32)(packet >> 32) != tag; }
  DEVICE void look(u64 packet, u32 tag) { differing = or_differing(differing, (u32)(packet >> 32), tag); }
  DEVICE bool there() const { return FREE || differing == 0; }
};

struct Quads {  // or others whose lowest bit tells
  u32 differing = 0;

  DEVICE static u64 none(u32 tag) { return tag & 1; }
  DEVICE static u64 other(u32 tag) { return ~tag & 1; }
  DEVICE static bool missing(u64 quad, u32 tag) { return ((u32)quad ^ tag) & 1; }
  DEVICE void look(u64 quad, u32 tag) { differing = or_differing(differing, (u32)quad, tag); }
  DEVICE bool there() const { return FREE || (differing & 1) == 0; }
};

// Asks for words at n places, one or two neighbouring ones each: w[k] are those at `at(k)`, or numbers that are 0 where
// there `is` none.
template <class Kind, int n, int size, class At, class Is>
DEVICE void ask(u64 (&w)[n][size], u32 tag, At at, Is is) {
  UNROLL
  for (int k = 0; k < n; ++k)
    UNROLL
    for (int j = 0; j < size; ++j) w[k][j] = is(k) ? Kind::other(tag) : Kind::none(tag);
  UNROLL
  for (int k = 0; k < n; ++k) load_packets_if(is(k), at(k), w[k]);
}

// Asks again for what was not there, and only for that: a block asks for up to 30 KB, and all blocks for the same.
template <class Kind, int n, int size, class At>
DEVICE void ask_again(u64 (&w)[n][size], u32 tag, At at) {
  UNROLL
  for (int k = 0; k < n; ++k)
    load_packets_if(Kind::missing(w[k][0], tag) || Kind::missing(w[k][size - 1], tag), at(k), w[k]);
}

// Whether all that this lane has asked for is there.
template <class Kind, int n, int size>
DEVICE bool arrived(const u64 (&w)[n][size], u32 tag) {
  Kind even, odd;  // two chains, for each look takes a while
  UNROLL
  for (int k = n - 1; k >= 0; --k)
    UNROLL
    for (int j = size - 1; j >= 0; --j) {
      if (n * size > 2 && (k * size + j) % 2) odd.look(w[k][j], tag);
      else even.look(w[k][j], tag);
    }
  return even.there() & odd.there();
}

// Waits for such words. All lanes of a warp call it and stay together: those that have theirs would go on alone, and what
// follows would be done several times over (docs/log.md).
template <class Kind, int n, int size, class At, class Is>
DEVICE void receive(u64 (&w)[n][size], u32 tag, At at, Is is) {
  ask<Kind>(w, tag, at, is);
  while (!all_lanes(arrived<Kind>(w, tag))) ask_again<Kind>(w, tag, at);
}

// The same, where lanes may come alone. There is none where `at(k)` is null.
template <class Kind, int n, int size, class At>
DEVICE void receive_alone(u64 (&w)[n][size], u32 tag, At at) {
  ask<Kind>(w, tag, at, [&](int k) { return at(k) != 0; });
  while (!arrived<Kind>(w, tag)) ask_again<Kind>(w, tag, at);
}

// A word on its way, if it is to be sent. It is made first and sent later, so that the making of several goes on at once.
struct Word {
  u64* to;
  u64 value;
  bool whether;

  DEVICE void send() const {
    if (whether) store_packet(to, value);
  }
};

DEVICE Word packet(u64* to, float value, u32 tag, bool whether = true) {
  return {to, (u64)tag << 32 | as_bits(value), whether};
}

// The nearest number whose lowest bit of 16 is the tag's.
DEVICE float marked(float y, u32 tag) {
  constexpr u32 bit = 1u << (BF16 ? 16 : 13);
  const u32 wanted = (tag & 1) * bit;
  return as_float(((as_bits(y) + bit - wanted) & ~(2 * bit - 1)) + wanted);
}

// Where quad i of a sequence's vector lies among those of all sequences: 32 numbers of each and then the next 32, as a warp
// asks for them.
DEVICE u32 quad_place(u32 sequence, u32 i) { return (i / 8 * SEQUENCES + sequence) * 8 + i % 8; }
// Quad i, counted through the parts that lie one after another in a buffer, of so many numbers each.
template <int inputs>
DEVICE u32 quad_index(u32 sequence, u32 i) {
  if (SEQUENCES == 1) return i;
  const u32 part = i / (inputs / 4);
  return part * SEQUENCES * (inputs / 4) + quad_place(sequence, i - part * (inputs / 4));
}
template <int inputs>
DEVICE u64* quad_of(u64* buffer, u32 sequence, u32 i) {
  return buffer + quad_index<inputs>(sequence, i);
}

// Where word i of a buffer is whose sectors (of four words) lie so many sectors apart. All blocks poll the same lines at
// the same time, each in one slice of L2: this makes them more lines, with less to read in each.
template <int apart>
DEVICE constexpr u32 spread(u32 i) { return i + (i & ~3u) * (apart - 1); }

// The first pair is of `marked` and its neighbour. A number too small to be marked is, too.
DEVICE u64 quad(u32 first, u32 second, u32 tag) { return (u64)second << 32 | (first & ~1u) | (tag & 1); }

// Numbers of four neighbouring lanes, a word of the first of them if it is to send. All lanes of a warp call it.
DEVICE Word quad_of_four(u64* to, float y, u32 tag, bool whether) {
  const float second = from_lane(y, 1), third = from_lane(y, 2), fourth = from_lane(y, 3);  // all at once
  return {to, quad(pack(marked(y, tag), second), pack(third, fourth), tag), whether && lane() % 4 == 0};
}

// Four numbers of one thread.
DEVICE Word quad_of_thread(u64* to, const float (&y)[4], u32 tag) {
  return {to, quad(pack(marked(y[0], tag), y[1]), pack(y[2], y[3]), tag), true};
}

// As `quad_of_four`, of two neighbouring lanes, each with two numbers.
DEVICE Word quad_of_pairs(u64* to, float y, float z, u32 tag, bool whether) {
  const u32 pair = pack(lane() % 2 ? y : marked(y, tag), z), next = from_lane(pair, 1);
  return {to, quad(pair, next, tag), whether && lane() % 2 == 0};
}

// With DELAY: blocks and warps come at other times, and everything must come out the same.
DEVICE void delay() {
  if (DELAY) nap((cycles() + 977 * block() + 71 * warp()) * 2654435761u % (DELAY + 1));
}
