// Runs the kernel on the emulated device: `run` is called from Python.

static const Step* arguments;
#define AS_ARGUMENT(type, name) arguments->name,
static void begin() {
  decode_steps(STEP(AS_ARGUMENT) 0);
  current->done = true;
  yield("nothing");
}

extern "C" int run(const Step* step, int blocks, unsigned seed) {
  const size_t stack = 256 << 10, shared = RING + TAIL + sizeof(Shared);
  arguments = step, grid_size = blocks;
  dice.state = seed, copies.clear(), rounds_before += rounds, rounds = 0;
  std::vector<Block> all(blocks);
  std::vector<Fiber> fibers(blocks * BLOCK_THREADS);
  u8* stacks = (u8*)mmap(0, stack * fibers.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  for (int b = 0; b < blocks; ++b) {
    all[b].index = b, all[b].warps.resize(WARPS + 1);
    all[b].shared = (u8*)aligned_alloc(1024, (shared + 1023) / 1024 * 1024);
    memset(all[b].shared, 0xff, shared);
  }
  for (size_t i = 0; i < fibers.size(); ++i) {
    Fiber& f = fibers[i];
    f.block = &all[i / BLOCK_THREADS], f.thread = i % BLOCK_THREADS, f.started = f.done = false;
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = stacks + stack * i, f.start.uc_stack.ss_size = stack, f.start.uc_link = 0;
    makecontext(&f.start, begin, 0);
  }
  std::vector<Fiber*> open;
  for (Fiber& f : fibers) open.push_back(&f);
  const u64 patience = 100000;
  while (!open.empty() && ++rounds < patience) {
    some_copies();
    // Warps in an order of their own each round; the lanes of one after another.
    const size_t first = dice() % open.size();
    for (size_t i = 0; i < open.size(); ++i) {
      Fiber* f = open[(first + i) % open.size()];
      if (dice() % 8 == 0 && f->thread % 32 == 0) continue;
      resume(f);
    }
    size_t left = 0;
    for (Fiber* f : open)
      if (!f->done) open[left++] = f;
    open.resize(left);
  }
  munmap(stacks, stack * fibers.size());
  for (Block& b : all) free(b.shared);
  for (Fiber* f : open)
    if (f->thread % 32 == 0) fprintf(stderr, "block %d warp %d waits for %s\n", f->block->index, f->thread / 32, f->where);
  return open.empty() && copies.empty() ? 0 : 1;
}
