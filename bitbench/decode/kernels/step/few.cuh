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

// Up to eight neighbours in shared memory, four at a time.
template <int n>
DEVICE void neighbours(const float* from, float (&to)[n]) {
  const Words first = *(const Words*)from, rest = n > 4 ? *(const Words*)(from + 4) : first;
  const u32 all[8] = {first.x, first.y, first.z, first.w, rest.x, rest.y, rest.z, rest.w};
  UNROLL
  for (int i = 0; i < n; ++i) to[i] = as_float(all[i]);
}

template <int n>
DEVICE float total(const float (&of)[n]) {
  return joined(of, [](float x, float y) { return x + y; });
}
template <int n>
DEVICE float largest(const float (&of)[n]) {
  return joined(of, [](float x, float y) { return larger(x, y); });
}
