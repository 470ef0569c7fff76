// Rows of a matrix times a vector of each sequence: what warps do of it, where their sums meet, and who finishes them.

// Sums of a tile by all warps. Of one sequence a row's lie side by side, so that a thread reads four at once; of several a
// warp's, a sequence's rows and, so that lanes write to different banks, some room.
#define SUMS_ROW (ROWS + 4)
#define WARP_APART (SEQUENCES > 1 ? SEQUENCES * SUMS_ROW : 1)
#define ROW_APART (SEQUENCES > 1 ? 1 : 8)
#define TILE_SUMS (SEQUENCES > 1 ? WARPS * WARP_APART + 8 : ROWS * ROW_APART)
static_assert(WARPS <= 8, "a row has room for the sums of so many");
#define SUMS_HALVES (SEQUENCES > 1 ? 1 : 2)  // for more sequences shared memory does not suffice

// Groups of ROWS threads share out a batch's sums. With one sequence a group has a tile. With several a thread has four
// rows, so a group has several tiles, and always of the same sequence: those behind the first ONE_SEQUENCE groups have none.
#define GROUPS (THREADS / ROWS)
#define ONE_SEQUENCE (GROUPS / SEQUENCES * SEQUENCES)
static_assert(ONE_SEQUENCE, "a group for each sequence");
DEVICE int group() { return thread() / ROWS; }
// The first tile that a thread has, where its group has so many at once.
DEVICE int first_tile(int at_once) { return group() / SEQUENCES * at_once + thread() % ROWS / (ROWS / at_once); }

// What is done beside products in small steps, so that one's latencies hide behind the others'.
#define BESIDE_STEPS 8
struct Nothing {
  DEVICE void operator()(int) const {}
};
template <class Beside>
DEVICE void all_steps(Beside beside) {
  UNROLL
  for (int k = 0; k < BESIDE_STEPS; ++k) beside(k);
}

// `units` units of `tiles` tiles, all at once so that one's latencies hide behind the others': y[tile] are the sums of
// rows g and g + 8 in the lane's columns over the first `num` units. `once`: x is used only here, and its sums are found
// here too. `beside(step)` is called for all BESIDE_STEPS.
template <int bits, int unit_inputs, int units, int tiles, class Part, class Beside>
DEVICE void multiply_at_once(
    const Ring& ring, const u32 (&place)[units][tiles], Part (&x)[units], bool once, int num,
    float (&y)[tiles][2][LANE_COLUMNS], Beside beside) {
  using Number = typename Part::Number;
  // A product takes four times as long until it is there as until the next can begin, so a single tile's are two chains.
  constexpr int chains = units * tiles == 1 && unit_inputs >= 64 ? 2 : 1;
  constexpr int at_once = Part::chunks;
  TilePart<bits, unit_inputs> w[units][tiles];
  Number a[units][tiles][chains][4], b[units][tiles][chains][4];
  UNROLL
  for (int u = 0; u < units; ++u)
    UNROLL
    for (int t = 0; t < tiles; ++t) {
      w[u][t].load(ring.bytes + place[u][t]);
      UNROLL
      for (int c = 0; c < chains; ++c)
        UNROLL
        for (int k = 0; k < 4; ++k) a[u][t][c][k] = b[u][t][c][k] = 0;
    }
  UNROLL
  for (int u = 0; u < units && once; ++u) x[u].begin_sums();
  UNROLL
  for (int i = 0; i < unit_inputs / 32; i += at_once)
    UNROLL
    for (int u = 0; u < units; ++u) {
      UNROLL
      for (int t = 0; t < tiles; ++t) {
        const int before = (i / at_once * units + u) * tiles + t, all = unit_inputs / 32 / at_once * units * tiles;
        UNROLL
        for (int k = before * BESIDE_STEPS / all; k < (before + 1) * BESIDE_STEPS / all; ++k) beside(k);
        UNROLL
        for (int j = i; j < i + at_once; ++j)
          w[u][t].multiply(j, x[u], a[u][t][j % chains], b[u][t][j % chains]);
      }
      UNROLL
      for (int j = i; j < i + at_once && once; ++j) x[u].sum_chunk(j);
    }
  UNROLL
  for (int u = 0; u < units && once; ++u) x[u].end_sums();
  UNROLL
  for (int k = 0; k < 4 && chains > 1; ++k) {
    a[0][0][0][k] += a[0][0][chains - 1][k];
    b[0][0][0][k] += b[0][0][chains - 1][k];
  }
  UNROLL
  for (int t = 0; t < tiles; ++t)
    UNROLL
    for (int row = 0; row < 2; ++row)
      UNROLL
      for (int c = 0; c < LANE_COLUMNS; ++c) {
        UNROLL
        for (int u = 0; u < units; ++u) {
          const float one = w[u][t].result(row, c, a[u][t][0], b[u][t][0], x[u]);
          y[t][row][c] = u == 0 ? one : y[t][row][c] + (u < num ? one : 0.0f);
        }
      }
}

// Where the warps' sums of tiles meet, [SUMS_HALVES][TILES][TILE_SUMS] in shared memory. While one half is read the other
// is written, and before that one is written again all warps meet. With one half they meet once more before they write,
// for the next product while its vector is still under way.
struct Sums {
  float* halves;
  u32 rounds;  // in which this warp has read what met

  DEVICE float* at() const { return halves + rounds % SUMS_HALVES * (TILES * TILE_SUMS); }
  DEVICE void may_be_written() const {
    if (SUMS_HALVES == 1) block_sync();
  }
};

// This lane's sums of up to `tiles` tiles from tile `first` on to where they meet, added to what is there already or not.
template <int tiles>
DEVICE void hand_over(float* mine, int first, int num, const float (&y)[tiles][2][LANE_COLUMNS], bool add) {
  UNROLL
  for (int c = 0; c < LANE_COLUMNS; ++c) {
    const int column = 2 * (lane() % 4) + c;
    if (column >= SEQUENCES) continue;
    UNROLL
    for (int t = 0; t < tiles; ++t) {
      if (t >= num) continue;
      float* to = mine + (first + t) * TILE_SUMS + column * SUMS_ROW;
      const float above = y[t][0][c], below = y[t][1][c];
      float* const eighth = to + 8 * ROW_APART;
      *to = add ? *to + above : above, *eighth = add ? *eighth + below : below;
    }
  }
}

// Where in the ring this warp's units of n tiles begin: `num` of them from its `my`-th on, or one unit of all tiles if these
// are multiplied together. What is missing is done twice and not counted.
template <class T, int most>
struct Places {
  static constexpr bool together = T::template together<most>;
  static constexpr int count = together ? most : T::each;
  u32 at[count];

  DEVICE void find(u32 begin, int my, int num, int n) {
    UNROLL
    for (int k = 0; k < count; ++k) {
      if (together) at[k] = Ring::onward(k ? at[0] : begin, (u32)(k == 0 ? my * n : k < n ? k : 0) * T::unit_bytes);
      else at[k] = Ring::onward(begin, (u32)((my + (k < num ? k : 0) * WARPS) * n) * T::unit_bytes);
    }
  }
};

// This warp's units of n tiles times its part of the vector, to where sums meet. Units behind the first `num` are done for
// nothing and not counted. Of `most` tiles at most.
template <int bits, int inputs, int unit_inputs, int most, int each, class Part, class Beside>
DEVICE void multiply_tiles(
    const Ring& ring, Part (&v)[each], const Places<Tile<bits, inputs, unit_inputs>, most>& places, int n, int num,
    float* mine, bool add, Beside beside) {
  using T = Tile<bits, inputs, unit_inputs>;
  constexpr int at_once = bits == 16 ? 2 : 4;
  const auto& unit = places.at;
  if constexpr (!T::template together<most>) all_steps(beside);
  if constexpr (T::template together<most>) {
    u32 place[1][most];
    UNROLL
    for (int t = 0; t < most; ++t) place[0][t] = unit[t];
    float y[most][2][LANE_COLUMNS];
    multiply_at_once<bits, unit_inputs, 1, most>(ring, place, v, T::template once<most>, num, y, beside);
    hand_over<most>(mine, 0, n, y, add);
  } else if constexpr (each == 1) {
    int i = 0;
    NO_UNROLL
    for (; most >= at_once && i + at_once <= n; i += at_once) {
      u32 place[1][at_once];
      UNROLL
      for (int t = 0; t < at_once; ++t) place[0][t] = Ring::onward(unit[0], (u32)(i + t) * T::unit_bytes);
      float y[at_once][2][LANE_COLUMNS];
      multiply_at_once<bits, unit_inputs, 1, at_once>(ring, place, v, T::template once<most>, num, y, Nothing());
      hand_over<at_once>(mine, i, at_once, y, add);
    }
    if (at_once > 2 && most >= 2 && n - i >= 2) {
      const u32 place[1][2] = {
          Ring::onward(unit[0], (u32)i * T::unit_bytes), Ring::onward(unit[0], (u32)(i + 1) * T::unit_bytes)};
      float y[2][2][LANE_COLUMNS];
      multiply_at_once<bits, unit_inputs, 1, 2>(ring, place, v, T::template once<most>, num, y, Nothing());
      hand_over<2>(mine, i, 2, y, add);
      i += 2;
    }
    if (i < n) {
      const u32 place[1][1] = {Ring::onward(unit[0], (u32)i * T::unit_bytes)};
      float y[1][2][LANE_COLUMNS];
      multiply_at_once<bits, unit_inputs, 1, 1>(ring, place, v, T::template once<most>, num, y, Nothing());
      hand_over<1>(mine, i, 1, y, add);
    }
  } else {
    NO_UNROLL
    for (int i = 0; i < n; ++i) {
      u32 place[each][1];
      UNROLL
      for (int u = 0; u < each; ++u) place[u][0] = Ring::onward(unit[u], (u32)i * T::unit_bytes);
      float y[1][2][LANE_COLUMNS];
      multiply_at_once<bits, unit_inputs, each, 1>(ring, place, v, T::template once<most>, num, y, Nothing());
      hand_over<1>(mine, i, 1, y, add);
    }
  }
}

// This warp's `num` units of a single tile from unit `my` on, one after another: little code, and for one sequence in 16
// bits that is faster than many at once (docs/log.md).
template <class T, int bits, int unit_inputs, class Part>
DEVICE void multiply_units(const Ring& ring, const Vector& x, u32 begin, int my, int num, float* mine) {
  float y[1][2][LANE_COLUMNS] = {};
  NO_UNROLL
  for (int i = my; i < my + num * WARPS; i += WARPS) {
    Part part[1];
    part[0].load(x, i, false);
    const u32 place[1][1] = {Ring::onward(begin, (u32)i * T::unit_bytes)};
    float one[1][2][LANE_COLUMNS];
    multiply_at_once<bits, unit_inputs, 1, 1>(ring, place, part, true, 1, one, Nothing());
    UNROLL
    for (int row = 0; row < 2; ++row)
      UNROLL
      for (int c = 0; c < LANE_COLUMNS; ++c) y[0][row][c] += one[0][row][c];
  }
  hand_over<1>(mine, 0, 1, y, false);
}

DEVICE void add_four(float (&y)[4], const float* from, bool first) {
  const Words v = *(const Words*)from;
  const u32 of[4] = {v.x, v.y, v.z, v.w};
  UNROLL
  for (int j = 0; j < 4; ++j) y[j] = first ? as_float(of[j]) : y[j] + as_float(of[j]);
}

// What met in `sums` of `tiles` tiles, the first of which is `first` of `count`, is summed and handed to `done`. With 8 bits
// the tiles' scales lie in the ring from `ends` on. `met` is for the first of all, after the sums have been asked for.
template <int bits, int warps, bool one_round, class Met, class Done>
DEVICE void finish_rows(
    const Ring& ring, u32 ends, const float* sums, const float* ahead, int first, int tiles, int count, Met met,
    Done& done) {
  const int row = thread() % ROWS;
  NO_UNROLL
  for (int base = 0; base < tiles; base += one_round ? tiles : GROUPS) {
    const int wanted = base + group(), tile = wanted < tiles ? wanted : tiles - 1;  // no branches
    float of[warps];
    neighbours(one_round ? ahead : sums + tile * TILE_SUMS + row * ROW_APART, of);
    float y = total(of);
    if (bits == 8) y *= *(const float*)(ring.bytes + Ring::onward(ends, 4 * (tile * ROWS + row)));
    if (first == 0 && base == 0) met();  // one's latencies behind the other's
    if (base + 2 * warp() < tiles) done(wanted < tiles ? first + wanted : count, row, y).send();  // whole warps
  }
}

// As `finish_rows` for several sequences, four rows a thread: so nobody needs another's. `pairs`: rows 0 to 7 are wanted
// together with rows 8 to 15.
template <int bits, int warps, bool pairs, class Done>
DEVICE void finish_quads(const Ring& ring, u32 ends, const float* sums, int first, int tiles, Done& done) {
  constexpr int parts = pairs ? 2 : 1, lanes = ROWS / 4 / parts, at_once = ROWS / lanes;
  if (group() >= ONE_SEQUENCE) return;
  const int sequence = group() % SEQUENCES, row = thread() % lanes * 4;
  NO_UNROLL
  for (int tile = first_tile(at_once); tile < tiles; tile += ONE_SEQUENCE / SEQUENCES * at_once) {
    float y[parts][4];
    UNROLL
    for (int p = 0; p < parts; ++p) {
      UNROLL
      for (int w = 0; w < warps; ++w) {
        const float* from = sums + tile * TILE_SUMS + w * WARP_APART + sequence * SUMS_ROW + row + 8 * p;
        add_four(y[p], from, w == 0);
      }
      if (bits == 8) {
        float scales[4];
        add_four(scales, (const float*)(ring.bytes + Ring::onward(ends, 4 * (tile * ROWS + row + 8 * p))), true);
        UNROLL
        for (int j = 0; j < 4; ++j) y[p][j] *= scales[j];
      }
    }
    done(first + tile, sequence, row, y);
  }
}

// What can be known of a small product before its vector comes: where this warp's units lie, and for one sequence where the
// sums meet of the row that this thread finishes.
template <class T, int most, int batch>
struct Ahead {
  Places<T, most> places;
  u32 sums;

  DEVICE void find(const Ring& ring, const Sums& all, int count) {
    if constexpr (T::template small<most, batch>) {
      places.find(ring.here, warp(), (T::units - warp() + WARPS - 1) / WARPS, most == 1 ? 1 : count);
      UNROLL
      for (int k = 0; k < places.count; ++k) places.at[k] = found_here(places.at[k]);
      const int tile = most == 1 ? 0 : group() < count ? group() : count - 1;
      if (SEQUENCES == 1)
        sums = found_here((u32)(all.at() - all.halves) + tile * TILE_SUMS + thread() % ROWS * ROW_APART);
    }
  }
};

// The next `count` tiles of the stream, at most `most`, times the vector x. Units are dealt out to the warps, and each
// warp's part of x is there when it comes. `beside(step)` is called for each of BESIDE_STEPS while the first products are
// under way, and `met()` when all warps have been there. Then `done` gets the results, as `finish_rows` or `finish_quads`
// gives them. `mark` hears of places. What is a batch of one segment the caller has waited for, and for sums that they may be
// written.
template <
    int bits, int inputs, int unit_inputs, bool planes, int most, int batch, bool pairs, class Mark, class Beside, class Met,
    class Done>
DEVICE void multiply(
    Ring& ring, const Vector& x, int count, Sums& sums, const Ahead<Tile<bits, inputs, unit_inputs>, most, batch>& ahead,
    Mark mark, Beside beside, Met met, Done& done) {
  static_assert(batch <= TILES, "sums meet in TILES places");
  if (most == 1) count = count ? 1 : 0;  // said to the compiler
  using T = Tile<bits, inputs, unit_inputs>;
  constexpr int each = T::each;
  constexpr bool one_segment = T::units <= T::segment, small = T::template small<most, batch>;
  constexpr bool all = one_segment && T::units >= WARPS;  // warps have units
  constexpr bool besides_products = T::template small_for_all<most, batch>;
  constexpr bool one_tile = SEQUENCES == 1 && bits == 16 && small && most == 1 && each > 1;
  constexpr int at_once = T::template at_once<most, batch>;
  using Part = VectorPart<bits, inputs, unit_inputs, planes>;
  Part v[each];
  // This warp's part of the vector: units `my` and every WARPS-th after it, `num` of them.
  const auto load = [&](int my, int num) {
    UNROLL
    for (int u = 0; u < each; ++u)
      v[u].load(x, my + (u < num ? u : 0) * WARPS, !T::template once<most>);
  };
  if (one_segment && !small)
    load(T::units >= WARPS || warp() < T::units ? warp() : 0, (T::units - warp() + WARPS - 1) / WARPS);
  if (count && !besides_products) all_steps(beside);
  NO_UNROLL
  for (int first = 0; first < count; first += small ? count : at_once) {
    const int tiles = small || count - first < at_once ? count - first : at_once;
    u32 ends = 0;
    const auto batch_from = [&](int i) {
      const int n = small || tiles - i < batch ? tiles - i : batch;
      float* mine = sums.at() + i * TILE_SUMS + warp() * WARP_APART + lane() / 4 * ROW_APART;
      NO_UNROLL
      for (int start = 0; start < T::units; start += T::segment) {
        const int end = start + T::segment < T::units ? start + T::segment : T::units;
        const int my = start + warp(), num = my < end ? (end - my + WARPS - 1) / WARPS : 0;
        const u32 begin = ring.take((u32)((end - start) * n) * T::unit_bytes), units_end = ring.at;
        if (bits == 8) ends = ring.here;
        if (T::end_bytes && end == T::units) ring.take(n * T::end_bytes);
        if (!small) ring.wait_for_taken();
        mark(3);
        if (all || num) {
          if (!one_tile && (small || !one_segment)) load(my, num);
          mark(4);
          if constexpr (one_tile) {
            if (besides_products) all_steps(beside);
            multiply_units<T, bits, unit_inputs, Part>(ring, x, begin, my, num, mine);
          } else {
            Places<T, most> places;
            if constexpr (small) places = ahead.places;
            else places.find(begin, my - start, num, n);
            const auto besides = [&](int k) {
              if (besides_products) beside(k);
            };
            multiply_tiles<bits, inputs, unit_inputs, most>(ring, v, places, n, num, mine, start > 0, besides);
          }
        }
        mark(5);
        if (!small) ring.release(units_end);
      }
    };
    if constexpr (small) {
      batch_from(0);
    } else {
      NO_UNROLL
      for (int i = 0; i < tiles; i += batch) batch_from(i);
    }
    mark(6);
    block_sync();
    mark(7);
    if constexpr (SEQUENCES == 1) {
      constexpr bool one_round = small && Done::first_only;
      finish_rows<bits, T::warps, one_round>(
          ring, ends, sums.at(), sums.halves + ahead.sums, first, tiles, count, met, done);
    } else {
      if (!first) met();
      finish_quads<bits, T::warps, pairs>(ring, ends, sums.at(), first, tiles, done);
    }
    ++sums.rounds;
    if (!small && first + at_once < count) sums.may_be_written();
  }
  if (one_segment) ring.release(ring.at);  // others wait for what was sent, nobody for this
}
