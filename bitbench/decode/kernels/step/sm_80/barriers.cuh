// Barriers in shared memory as sm_80 has them: they count who arrives, and who waits asks again and again.

DEVICE void mbarrier_init(u64* b, u32 count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count) : "memory");
}
DEVICE void mbarrier_init_done() {}  // the block meets after it, and nobody else sees them
DEVICE void mbarrier_arrive(u64* b) {
  asm volatile("{.reg .b64 state; mbarrier.arrive.shared.b64 state, [%0];}" ::"r"(shared_address(b)) : "memory");
}
DEVICE void mbarrier_wait(u64* b, u32 parity) {
  asm volatile(
      "{\n .reg .pred done;\n again:\n"
      " mbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n @!done bra again;\n}" ::"r"(shared_address(b)),
      "r"(parity)
      : "memory");
}
