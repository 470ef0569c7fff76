// Where a product's results go: q, k and v to those who attend, parts of the residual and of down's inputs to all, logits to
// the choice of the next token.

// Larger logits first, and of equal ones the smaller row, as argmax does: both in one number that compares so. Its lowest
// bit is left to the exchange.
DEVICE u64 ranked(float logit, int row) {
  const u32 raw = as_bits(logit);
  return (u64)(raw & 0x80000000u ? ~raw : raw | 0x80000000u) << 32 | (u32)~row << 1;
}
DEVICE int row_of(u64 ranked) { return (int)(~(u32)ranked >> 1); }

// Of product `which` of a layer, for a block's `count` tiles from tile `first` on.
template <int which>
struct Results {
  using P = Product<which>;
  // Tiles that a group has at once: a thread has one row of a tile, or four, or with several sequences four of gate and up
  // each.
  static constexpr int at_once = SEQUENCES == 1 ? 1 : which == GATE_UP ? 8 : 4;
  static constexpr bool first_only =  // tiles of a thread
      P::most <= GROUPS / SEQUENCES * at_once && P::most <= P::T::template at_once<P::most, P::batch>;
  const Step& s;
  int layer, first, count;
  u32 tag;
  float scale = 1;  // what the results of this thread's sequence lack
  u64 biases = 0;   // of this thread's rows of the first tile that it has
  u64* to = 0;      // where they go
  u64 best = 0;     // this thread's largest logit, `ranked`

  // While the vector is still under way.
  DEVICE void prepare() {
    if constexpr (which != HEAD) {
      const int tile = first_tile(at_once), row = SEQUENCES == 1 ? thread() % ROWS : thread() % (ROWS / at_once) * 4;
      if (QKV_BIAS && which == QKV && tile < count) biases = bias_at(tile, row);
      if (first_only) to = found_here(place(tile, group() % SEQUENCES, row));
    }
  }

  // The scale is given by lanes of its sequence's column.
  DEVICE void scale_by(float of_column) {
    scale = SEQUENCES == 1 ? of_column : of_lane(of_column, 4 * (group() % SEQUENCES));
  }

  // For one sequence: a thread has one row of a tile, and its group of ROWS threads the others. Groups without a tile call
  // with tile = `count`.
  DEVICE Word operator()(int tile, int row, float y) {
    const bool whole = tile < count;
    // Rows 0 to 7 of a tile are of gate, 8 to 15 the same of up.
    const float up = which == GATE_UP ? from_lane(y, 8) * scale : 0;
    y *= scale;
    if constexpr (which == GATE_UP) {
      return quad_of_four(target(tile, 0, row), silu(y) * up, tag, whole && row < 8);
    } else if constexpr (which == HEAD) {
      if (whole) rank(tile, 0, row, y);
      return {0, 0, false};
    } else if constexpr (which == QKV) {
      y += low((u32)(first_only || tile == first_tile(at_once) ? biases : whole ? bias_at(tile, row) : 0));
      return packet(target(tile, 0, row), y, tag, whole);
    } else {
      return quad_of_four(target(tile, 0, row), y, tag, whole);
    }
  }

  // For several: a thread has four rows from `row` on, and of gate and up those of both.
  template <int n>
  DEVICE void operator()(int tile, int sequence, int row, const float (&given)[n][4]) {
    float y[n][4];
    UNROLL
    for (int p = 0; p < n; ++p)
      UNROLL
      for (int j = 0; j < 4; ++j) y[p][j] = given[p][j] * scale;
    if constexpr (which == GATE_UP) {
      UNROLL
      for (int j = 0; j < 4; ++j) y[0][j] = silu(y[0][j]) * y[1][j];
      quad_of_thread(target(tile, sequence, row), y[0], tag).send();
    } else if constexpr (which == HEAD) {
      UNROLL
      for (int j = 0; j < 4; ++j) rank(tile, sequence, row + j, y[0][j]);
    } else if constexpr (which == QKV) {
      const u64 four = first_only || tile == first_tile(at_once) ? biases : bias_at(tile, row);
      u64* const first_of_four = target(tile, sequence, row);
      UNROLL
      for (int j = 0; j < 4; ++j) packet(first_of_four + j, y[0][j] + low((u32)(four >> 16 * j)), tag).send();
    } else {
      quad_of_thread(target(tile, sequence, row), y[0], tag).send();
    }
  }

 private:
  DEVICE static float silu(float y) { return divide_fast(y, 1.0f + exp2_fast(-LOG2_E * y)); }

  DEVICE u64 bias_at(int tile, int row) const {
    if (!QKV_BIAS) return 0;
    const u16* from = s.qkv_bias + (u32)(layer * QKV_SIZE + 16 * (first + tile) + row);
    return SEQUENCES == 1 ? load_constant(from) : load_constant((const u64*)from);
  }

  DEVICE void rank(int tile, int sequence, int row, float y) {
    const int of_all = (first + tile) * 16 + row;
    if (of_all >= VOCAB) return;
    const u64 one = ranked(y, of_all);
    best = one > best ? one : best;
    if (s.keep_logits) s.logits[(u64)sequence * VOCAB + of_all] = y;
  }

  // Where a row's result goes, or those of four rows.
  DEVICE u64* target(int tile, int sequence, int row) const { return first_only ? to : place(tile, sequence, row); }
  DEVICE u64* place(int tile, int sequence, int row) const {
    const int of_all = first + tile;
    if constexpr (which == QKV) return s.qkv + (u32)(sequence * QKV_SIZE + of_all * 16 + row);
    else if constexpr (which == GATE_UP) return quad_of<DOWN_INPUTS>(s.inner, sequence, 2 * of_all + row / 4);
    const u32 quad = quad_index<HIDDEN>(sequence, 4 * of_all + row / 4);
    return which == O ? s.from_o + quad : s.from_down + spread<SPREAD>(quad);
  }
};
