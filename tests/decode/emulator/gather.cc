// Runs gather_matrix: its threads meet nowhere, so one after another. `run` is called from Python.

extern "C" int run(const Gather* arguments, int blocks, unsigned) {
  Block block;
  Fiber fiber;
  fiber.block = &block, current = &fiber, grid_size = blocks;
#define AS_ARGUMENT(type, name) arguments->name,
  for (block.index = 0; block.index < blocks; ++block.index)
    for (fiber.thread = 0; fiber.thread < THREADS; ++fiber.thread) gather_matrix(GATHER(AS_ARGUMENT) 0);
  return 0;
}
