// Attention of a sequence's new token over its cache, one key head and one part of the context a block: the query heads
// that share a key head (up to eight) are the rows of the products, so keys and values are read once for all of them.
//
// Keys lie as [position][dimension] and values, of CHUNK positions at a time, as [dimension][position], so that both are
// columns of a right operand and a lane reads 16 bytes of them at once. Which positions are which columns is chosen so that
// a lane's scores are those of the eight positions whose values it has: weights go from one product to the other within
// registers, as in FlashAttention-2 (arXiv 2307.08691). What lies in the cache is asked for before the query is there. The
// new token's own key and value come with the query, and what it adds is joined with what the warps have found.
//
// Values behind the last position must be numbers, for they are multiplied by 0.

#define GROUP_HEADS (HEADS / KV_HEADS)
#define NEVER (-1e30f)   // the score of a position that is not seen
#define LOG2_E 1.4426950408889634f
#define QUERY_ROW (HEAD_DIM + 32)  // 16-bit numbers; rows begin in alternate halves of the banks
#define OUT_ROW (HEAD_DIM + 8)     // rows begin in other banks
#define JOIN_PAIRS 8     // pairs of dimensions of a head that a block joins
#define JOINS (HEAD_DIM / 2 / JOIN_PAIRS)  // blocks to a head
#define JOIN_GROUPS (THREADS / JOIN_PAIRS)
#define JOIN_AT_ONCE 3   // parts that a thread asks for before it looks at the first: 84 of them in all

static_assert(HEADS % KV_HEADS == 0 && GROUP_HEADS <= 8, "up to eight query heads share a key head");
static_assert(HEAD_DIM == 64 || HEAD_DIM == 128, "heads of 64 or 128");

struct alignas(8) Two {
  float first, second;
};

struct AttentionScratch {
  alignas(16) u16 query[8][QUERY_ROW];
  alignas(16) u16 key[HEAD_DIM], value[HEAD_DIM];
  Two most_and_sum[WARPS + 1][8];  // of the last, the new token's, the score
  union {
    float out[WARPS][GROUP_HEADS][OUT_ROW];
    float joined[JOIN_GROUPS][2 * JOIN_PAIRS + 2];  // weighted sums, their maximum, the sum of weights
  };
};

// Into how many parts a context is cut. One up to two rounds of a block: joining parts costs a phase of its own.
DEVICE int num_splits(int length) {
  const int round = CHUNK * WARPS, wanted = (length + round - 1) / round;
  const int most = num_blocks() / (KV_HEADS * SEQUENCES);
  return wanted <= 2 || most < 2 ? 1 : wanted < most ? wanted : most;
}

// Positions of one of so many parts in the cache: from `begin` to `end`, exclusive. The newest is not there yet; it belongs
// to the part that `newest` says.
struct Span {
  int begin, end;
  bool newest;
};

DEVICE Span span_of(int split, int splits, int position) {
  const int length = position + 1, each = splits > 1 ? (length + splits - 1) / splits : length;
  const int size = (each + CHUNK - 1) / CHUNK * CHUNK, begin = split * size, end = begin + size;
  return {begin, end < position ? end : position, position >= begin && position < end};
}

// What a block attends to in all layers of a step: a key head, counted over all sequences, and with more heads than blocks
// every num_blocks()-th after it, over one of `splits` parts of the positions. `append`: whether it writes the new key and
// value into the cache.
struct Duty {
  int head, split, splits;
  bool append;
  Span span;
};

// One head of it, in one layer.
struct Part {
  const Duty& duty;
  int kv, sequence;
  u16 *keys, *values;  // [context][HEAD_DIM] and [context / CHUNK][HEAD_DIM][CHUNK]

  DEVICE Part(const Step& s, const Duty& duty, int layer, int head)
      : duty(duty), kv(head / SEQUENCES), sequence(head % SEQUENCES) {
    const u32 bytes = s.context * (2 * HEAD_DIM), of_all = (layer * SEQUENCES + sequence) * KV_HEADS + kv;
    keys = (u16*)((u8*)s.keys + (u64)of_all * bytes), values = (u16*)((u8*)s.values + (u64)of_all * bytes);
  }
};

// Where an even dimension d of a query and the next lie: of every eight the third pair comes before the second.
DEVICE int query_place(int d) { return (d & ~6) | (d & 2) << 1 | (d & 4) >> 1; }

// A part's keys and values into L2, while memory has little else to do: the block reads them soon. One thread asks the
// copy engine for all of them, since asked for line by line they delay what the block waits for next.
DEVICE void fetch_ahead(const Part& part) {
  const Span& span = part.duty.span;
  if (thread() != THREADS / 2 || span.begin >= span.end) return;
  const u32 from = span.begin * HEAD_DIM;
  const u32 bytes = (span.end - span.begin + CHUNK - 1) / CHUNK * CHUNK * HEAD_DIM * 2;
  bulk_prefetch(part.keys + from, bytes), bulk_prefetch(part.values + from, bytes);
}

#define HEAD_LANES (HEAD_DIM / 4)
#define HEADS_AT_ONCE (THREADS / HEAD_LANES)
static_assert(HEADS_AT_ONCE >= 2, "no thread has of both the new key and the new value");

// This thread's four numbers of the new key or value, in 16 bits.
struct NewNumbers {
  u32 first, second;
};

// The query heads of a key head, its new key and its new value, from packets: norms (where the model has them),
// rotation, 16 bits. A lane has two neighbouring dimensions of a head and the two that turn with them.
DEVICE NewNumbers receive_heads(
    const Step& s, int layer, const Part& part, int position, u32 tag, AttentionScratch& a) {
  const int kv = part.kv;
  constexpr int turn = HEAD_DIM / 2, lanes = HEAD_LANES, at_once = HEADS_AT_ONCE;
  constexpr int rounds = (GROUP_HEADS + 2 + at_once - 1) / at_once;
  const int d = thread() % lanes * 2;
  const u64 cosines = load_constant((const u64*)(s.cos_sin + (u32)(position * turn + d)));
  const u64 sines = load_constant((const u64*)(s.cos_sin + (u32)((s.context + position) * turn + d)));
  NewNumbers fresh = {0, 0};
  const u64* from = s.qkv + (u32)(part.sequence * QKV_SIZE + d);
  u64 packets[rounds * 2][2];
  receive<Packets>(
      packets, tag,
      [&](int k) {
        const int h = thread() / lanes + k / 2 * at_once;
        const int row = h < GROUP_HEADS ? (kv * GROUP_HEADS + h) * HEAD_DIM
                                        : Q_SIZE + (h - GROUP_HEADS) * KV_SIZE + kv * HEAD_DIM;
        return from + (u32)(row + k % 2 * turn);
      },
      [&](int k) { return thread() / lanes + k / 2 * at_once < GROUP_HEADS + 2; });
  UNROLL
  for (int round = 0; round < rounds; ++round) {
    const int h = thread() / lanes + round * at_once;
    float x[2], y[2];
    UNROLL
    for (int j = 0; j < 2; ++j)
      x[j] = as_float((u32)packets[2 * round][j]), y[j] = as_float((u32)packets[2 * round + 1][j]);
#if QK_NORM
    float squares = 0;
    UNROLL
    for (int j = 0; j < 2; ++j) squares += x[j] * x[j] + y[j] * y[j];
    UNROLL
    for (int flip = lanes / 2; flip; flip /= 2) squares += from_lane(squares, flip);
    if (h <= GROUP_HEADS) {
      const float scale = reciprocal_root(squares * (1.0f / HEAD_DIM) + (float)EPS);
      const u16* weights = s.qk_norms + (2 * layer + (h == GROUP_HEADS)) * HEAD_DIM + d;
      const u32 v = load_constant((const u32*)weights), w = load_constant((const u32*)(weights + turn));
      x[0] *= scale * low(v), x[1] *= scale * high(v), y[0] *= scale * low(w), y[1] *= scale * high(w);
    }
#endif
    if (h >= GROUP_HEADS + 2) continue;
    if (h <= GROUP_HEADS) {
      UNROLL
      for (int j = 0; j < 2; ++j) {
        const float cosine = as_float((u32)(cosines >> 32 * j)), sine = as_float((u32)(sines >> 32 * j)), before = x[j];
        x[j] = before * cosine - y[j] * sine, y[j] = y[j] * cosine + before * sine;
      }
    }
    // HEAD_DIM^-1/2
    const float scale = h < GROUP_HEADS ? LOG2_E * (HEAD_DIM == 64 ? 0.125f : 0.08838834764831845f) : 1.0f;
    const u32 first = pack(x[0] * scale, x[1] * scale), second = pack(y[0] * scale, y[1] * scale);
    u16* to = h < GROUP_HEADS ? a.query[h] + query_place(d) : (h == GROUP_HEADS ? a.key : a.value) + d;
    *(u32*)to = first, *(u32*)(to + turn) = second;
    if (h >= GROUP_HEADS) fresh = {first, second};
  }
  return fresh;
}

// The new key and value into the cache, if that is the block's duty. Nobody in this step waits for it.
DEVICE void append(const Part& part, int position, NewNumbers fresh) {
  if (!part.duty.append || !part.duty.span.newest) return;
  constexpr int turn = HEAD_DIM / 2;
  const int d = thread() % HEAD_LANES * 2, h = thread() / HEAD_LANES;
  if (h == GROUP_HEADS % HEADS_AT_ONCE) {
    u16* cache = part.keys + (u32)(position * HEAD_DIM + d);
    *(u32*)cache = fresh.first, *(u32*)(cache + turn) = fresh.second;
  } else if (h == (GROUP_HEADS + 1) % HEADS_AT_ONCE) {
    u16* cache = part.values + (u32)(position / CHUNK * CHUNK * HEAD_DIM + d * CHUNK + position % CHUNK);
    cache[0] = (u16)fresh.first, cache[CHUNK] = (u16)(fresh.first >> 16);
    cache += turn * CHUNK;
    cache[0] = (u16)fresh.second, cache[CHUNK] = (u16)(fresh.second >> 16);
  }
}

// Keys of 32 positions as right operands, [8 positions each][32 dimensions each]: column m of tile i is position
// 8 (m / 2) + 2 i + m % 2.
struct Keys {
  Words at[4][HEAD_DIM / 32];

  DEVICE void load(const u16* keys, u32 start) {
    const int g = lane() / 4;
    const u16* from = keys + (u32)((start + g / 2 * 8 + g % 2) * HEAD_DIM + 8 * (lane() % 4));
    UNROLL
    for (int tile = 0; tile < 4; ++tile)
      UNROLL
      for (int chunk = 0; chunk < HEAD_DIM / 32; ++chunk)
        at[tile][chunk] = load_words(from + 2 * tile * HEAD_DIM + 32 * chunk);
  }
};

// Values of 32 positions as right operands, transposed, [8 dimensions each].
struct Values {
  Words at[HEAD_DIM / 8];

  DEVICE void load(const u16* values, u32 start) {
    const u16* from = values + (u32)(start * HEAD_DIM + 8 * lane());
    UNROLL
    for (int tile = 0; tile < HEAD_DIM / 8; ++tile) at[tile] = load_words(from + 8 * CHUNK * tile);
  }
};

// Queries of eight heads times eight columns, 32 dimensions. A product has sixteen rows and there are eight heads: in
// shared memory a lane's eight numbers lie so that its four words are a left operand as they are, with the first product's
// numbers in rows 0 to 7 and the second's in rows 8 to 15. Of `first` the upper rows count, of `second` the lower.
DEVICE void multiply_query(float (&first)[4], float (&second)[4], const Words& query, const Words& key) {
  mma(first, query.x, query.y, query.z, query.w, key.x, key.y);
  mma(second, query.x, query.y, query.z, query.w, key.z, key.w);
}

// Where four dimensions from d on of a head, counted over all sequences, are sent: to their part of o.
DEVICE u64* attended(const Step& s, int head, int d) {
  return quad_of<O_INPUTS>(s.attended, head / HEADS, (head % HEADS * HEAD_DIM + d) / 4);
}

// What a warp has found: of head g the largest score, this lane's sum of weights, and the weighted values of two
// dimensions in every eight, `out`[][0] and [1].
struct Weighed {
  float most, sum, out[HEAD_DIM / 8][4];

  // Adds CHUNK positions from `start` on, of which those before `end` count. With `first` there is nothing to add to.
  // `scored` is called when keys are not needed any more.
  template <bool first, class Scored>
  DEVICE void add(
      const Words (&query)[HEAD_DIM / 32], const Keys& keys, const Values& values, int start, int end, Scored scored) {
    float first_half[4][4], second_half[4][4], score[8];
    UNROLL
    for (int i = 0; i < 4; ++i)
      UNROLL
      for (int j = 0; j < 4; ++j) first_half[i][j] = second_half[i][j] = 0;
    UNROLL
    for (int chunk = 0; chunk < HEAD_DIM / 32; ++chunk)
      UNROLL
      for (int i = 0; i < 4; ++i) multiply_query(first_half[i], second_half[i], query[chunk], keys.at[i][chunk]);
    scored();
    const int seen = end - start - 8 * (lane() % 4);
    UNROLL
    for (int i = 0; i < 8; ++i)  // of head g, at positions from 8 t on
      score[i] = i < seen ? first_half[i / 2][i % 2] + second_half[i / 2][2 + i % 2] : NEVER;
    float highest = largest(score);
    if (!first) highest = larger(highest, most);
    UNROLL
    for (int d = 1; d < 4; d *= 2) highest = larger(highest, from_lane(highest, d));
    const float factor = first ? 0.0f : exp2_fast(most - highest);
    u32 weights[4];
    float sums[4];
    UNROLL
    for (int i = 0; i < 4; ++i) {
      const float one = exp2_fast(score[2 * i] - highest), next_one = exp2_fast(score[2 * i + 1] - highest);
      sums[i] = one + next_one, weights[i] = pack(one, next_one);
    }
    sum = first ? total(sums) : fmaf(sum, factor, total(sums));
    most = highest;
    const u32 nothing[4] = {opaque_zero(), opaque_zero(), opaque_zero(), opaque_zero()};  // rows 8 to 15
    UNROLL
    for (int i = 0; i < HEAD_DIM / 8; ++i) {
      if (first) out[i][0] = out[i][1] = out[i][2] = out[i][3] = 0;
      else out[i][0] *= factor, out[i][1] *= factor;
      const Words& v = values.at[i];
      mma(out[i], weights[0], nothing[0], weights[1], nothing[1], v.x, v.y);
      mma(out[i], weights[2], nothing[2], weights[3], nothing[3], v.z, v.w);
    }
  }

  DEVICE void add_nothing() {
    most = NEVER, sum = 0;
    UNROLL
    for (int i = 0; i < HEAD_DIM / 8; ++i) out[i][0] = out[i][1] = 0;
  }
};

// One key head over its part of the positions, the last of which may be the new one. Where the context is whole, the
// 16-bit results go to `x` in shared memory or, where that is null, to other blocks; else the part's weighted sums,
// their maximum and the sum of weights are sent for `join`.
DEVICE NewNumbers attend(
    const Step& s, int layer, const Part& part, int position, u32 tag, u32* x, AttentionScratch& a) {
  const int kv = part.kv, split = part.duty.split, splits = part.duty.splits;
  const Span& span = part.duty.span;
  const int end = span.end;
  const int g = lane() / 4, t = lane() % 4, first = span.begin + CHUNK * warp();
  Keys keys;
  Values values;
  if (first < end) {
    keys.load(part.keys, first);
    if (HEAD_DIM == 64) values.load(part.values, first);  // registers do not suffice for more
  }
  block_sync();  // what the phase before keeps here has been read
  const NewNumbers fresh = receive_heads(s, layer, part, position, tag, a);
  block_sync();
  Words query[HEAD_DIM / 32];
  UNROLL
  for (int chunk = 0; chunk < HEAD_DIM / 32; ++chunk) query[chunk] = *(const Words*)(a.query[g] + 32 * chunk + 8 * t);
  if (warp() == WARPS - 1) {  // the last to have positions of the cache
    float first_half[4] = {0, 0, 0, 0}, second_half[4] = {0, 0, 0, 0};
    UNROLL
    for (int chunk = 0; chunk < HEAD_DIM / 32; ++chunk)
      multiply_query(first_half, second_half, query[chunk], *(const Words*)(a.key + 32 * chunk + 8 * t));
    if (t == 0) a.most_and_sum[WARPS][g].first = span.newest ? first_half[0] + second_half[2] : NEVER;
  }
  Weighed found;
  if (first < end) {
    const auto next_keys = [&](int start) {  // under way while those before are weighed
      if (start + CHUNK * WARPS < end) keys.load(part.keys, start + CHUNK * WARPS);
    };
    const auto next_values = [&](int start) {
      if (HEAD_DIM == 64 && start + CHUNK * WARPS < end) values.load(part.values, start + CHUNK * WARPS);
    };
    if (HEAD_DIM != 64) values.load(part.values, first);
    found.add<true>(query, keys, values, first, end, [&] { next_keys(first); });
    next_values(first);
    NO_UNROLL
    for (int start = first + CHUNK * WARPS; start < end; start += CHUNK * WARPS) {
      if (HEAD_DIM != 64) values.load(part.values, start);
      found.add<false>(query, keys, values, start, end, [&] { next_keys(start); });
      next_values(start);
    }
  } else {
    found.add_nothing();
  }
  UNROLL
  for (int d = 1; d < 4; d *= 2) found.sum += from_lane(found.sum, d);
  if (t == 0) a.most_and_sum[warp()][g] = {found.most, found.sum};
  if (g < GROUP_HEADS) {
    UNROLL
    for (int i = 0; i < HEAD_DIM / 8; ++i)
      *(Two*)&a.out[warp()][g][8 * i + 2 * t] = {found.out[i][0], found.out[i][1]};
  }
  block_sync();
  constexpr int pairs = GROUP_HEADS * HEAD_DIM / 2;
  UNROLL
  for (int round = 0; round < (pairs + THREADS - 1) / THREADS; ++round) {
    const int i = thread() + round * THREADS;
    if (pairs % THREADS && i >= pairs) break;
    const int h = i / (HEAD_DIM / 2), d = i % (HEAD_DIM / 2) * 2;
    const int of_all = part.sequence * HEADS + kv * GROUP_HEADS + h;
    Two parts[WARPS + 1];
    float most[WARPS + 1];
    UNROLL
    for (int w = 0; w <= WARPS; ++w) parts[w] = a.most_and_sum[w][h], most[w] = parts[w].first;
    const float top = largest(most);
    const u32 newest_two = *(const u32*)&a.value[d];
    float total = exp2_fast(most[WARPS] - top), y = low(newest_two) * total, z = high(newest_two) * total;
    UNROLL
    for (int w = 0; w < WARPS; ++w) {
      const float factor = exp2_fast(most[w] - top);
      total = fmaf(parts[w].second, factor, total);
      const Two two = *(const Two*)&a.out[w][h][d];
      y = fmaf(two.first, factor, y), z = fmaf(two.second, factor, z);
    }
    if (splits == 1) {
      const float share = divide_fast(1.0f, total);
      if (x) x[i] = pack(y * share, z * share);
      else quad_of_pairs(attended(s, of_all, d), y * share, z * share, tag, true).send();
    } else {
      u64* to = s.parts + (u32)((of_all * s.max_splits + split) * (HEAD_DIM + 2));
      packet(to + d, y, tag).send(), packet(to + d + 1, z, tag).send();
      if (d == 0) packet(to + HEAD_DIM, top, tag).send(), packet(to + HEAD_DIM + 1, total, tag).send();
    }
  }
  block_sync();
  return fresh;
}

// Joins the parts of some dimensions of one head; `piece` counts all sequences' heads and their pieces. A thread takes a
// pair of dimensions of every JOIN_GROUPS-th part, and asks for several before it looks at the first: a look takes most
// of a microsecond.
DEVICE void join(const Step& s, int piece, int splits, u32 tag, AttentionScratch& a) {
  const int head = piece / JOINS, group = thread() / JOIN_PAIRS, pair = thread() % JOIN_PAIRS;
  const int d = (piece % JOINS * JOIN_PAIRS + pair) * 2;
  float most = NEVER, total = 0, x = 0, y = 0;
  block_sync();  // what the phase before keeps here has been read
  NO_UNROLL
  for (int split = group; split < splits; split += JOIN_AT_ONCE * JOIN_GROUPS) {
    u64 packets[2 * JOIN_AT_ONCE][2];
    receive_alone<Packets>(packets, tag, [&](int k) {
      const int one = split + k / 2 * JOIN_GROUPS;
      const u64* from = s.parts + (u64)(head * s.max_splits + one) * (HEAD_DIM + 2);
      return one < splits ? from + (k % 2 ? HEAD_DIM : d) : 0;
    });
    UNROLL
    for (int k = 0; k < JOIN_AT_ONCE; ++k) {
      const auto *sums = packets[2 * k], *rest = packets[2 * k + 1];
      const float theirs = split + k * JOIN_GROUPS < splits ? as_float((u32)rest[0]) : NEVER;
      const float top = theirs > most ? theirs : most;
      const float old = exp2_fast(most - top), now = exp2_fast(theirs - top);
      most = top, total = fmaf(as_float((u32)rest[1]), now, total * old);
      x = fmaf(as_float((u32)sums[0]), now, x * old), y = fmaf(as_float((u32)sums[1]), now, y * old);
    }
  }
  float* mine = a.joined[group];
  mine[2 * pair] = x, mine[2 * pair + 1] = y;
  if (pair == 0) mine[2 * JOIN_PAIRS] = most, mine[2 * JOIN_PAIRS + 1] = total;
  block_sync();
  if (warp() == 0) {
    float top = NEVER;
    total = x = y = 0;
    for (int k = 0; k < JOIN_GROUPS; ++k) top = a.joined[k][2 * JOIN_PAIRS] > top ? a.joined[k][2 * JOIN_PAIRS] : top;
    for (int k = 0; k < JOIN_GROUPS; ++k) {
      const float* one = a.joined[k];
      const float factor = exp2_fast(one[2 * JOIN_PAIRS] - top);
      total = fmaf(one[2 * JOIN_PAIRS + 1], factor, total);
      x = fmaf(one[2 * pair], factor, x), y = fmaf(one[2 * pair + 1], factor, y);
    }
    u64* to = attended(s, head, d);
    quad_of_pairs(to, divide_fast(x, total), divide_fast(y, total), tag, group == 0).send();
  }
  block_sync();
}
