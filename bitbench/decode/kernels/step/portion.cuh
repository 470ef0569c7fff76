// Which of a vector's numbers a warp multiplies: every WARPS-th unit (tile.cuh), of all sequences. It receives them
// itself and waits for no other warp. A product has columns for eight sequences, and lane 4 g + t eight numbers of column
// g in each chunk of 32; with fewer columns several lanes share out what one of a product has.

#define COLUMNS (SEQUENCES > 4 ? 8 : SEQUENCES > 2 ? 4 : SEQUENCES)
#define PIECES (8 / COLUMNS)  // lanes that share

DEVICE int column() { return lane() / 4 % COLUMNS; }

// This thread's numbers of a vector, of sequence `column`: `each` times so many neighbours, 4 or 8. From its first one on
// they lie at distances that are the same for all threads.
template <int inputs, int unit, int neighbours = 8>
struct Portion {
  static constexpr int units = inputs / unit, turns = (units + WARPS - 1) / WARPS, chunks = unit / 32;
  static constexpr int shared = PIECES * neighbours / 8;  // chunks that the lanes of a column have at a time
  static constexpr int in_turn = shared < chunks ? chunks / shared : 1;
  static constexpr int turns_at_once = shared < chunks ? 1 : shared / chunks;
  static constexpr int each = (turns + turns_at_once - 1) / turns_at_once * in_turn;

  DEVICE static int piece() { return lane() / 4 / COLUMNS; }
  DEVICE static int first_turn() { return shared < chunks ? 0 : piece() * neighbours / 8 / chunks; }

  DEVICE static int first() {
    const int eight = piece() * neighbours / 8, chunk = shared < chunks ? eight : eight % chunks;
    return (warp() + first_turn() * WARPS) * unit + chunk * 32 + lane() % 4 * 8 + piece() * neighbours % 8;
  }
  // From the first number to the k-th neighbours.
  DEVICE static constexpr int distance(int k) {
    return k / in_turn * turns_at_once * WARPS * unit + k % in_turn * shared * 32;
  }
  // Whether there are k-th neighbours.
  DEVICE static bool has(int k) {
    if (COLUMNS != SEQUENCES && column() >= SEQUENCES) return false;
    const int turn = k / in_turn * turns_at_once;
    if ((turn + turns_at_once) * WARPS <= units) return true;
    return warp() + (turn + first_turn()) * WARPS < units;
  }
};
