// Of few numbers that a thread has, in few steps one after another: a chain would take as many as there are numbers.

template <int n, class Join>
DEVICE float joined(const float (&of)[n], Join join) {
  float v[n];
  UNROLL
  for (int i = 0; i < n; ++i) v[i] = of[i];
  UNROLL
  for (int step = 1; step < n; step *= 2)
    UNROLL
    for (int i = 0; i + step < n; i += 2 * step) v[i] = join(v[i], v[i + step]);
  return v[0];
}

template <int n>
DEVICE float total(const float (&of)[n]) {
  return joined(of, [](float x, float y) { return x + y; });
}
template <int n>
DEVICE float largest(const float (&of)[n]) {
  return joined(of, [](float x, float y) { return larger(x, y); });
}
