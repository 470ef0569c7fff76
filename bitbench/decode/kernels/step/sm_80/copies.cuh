// Copies as sm_80 has them: each lane asks for 16 bytes at a time.

// From global to shared memory by a whole warp: so many bytes, a multiple of 512. Without a policy for L2: with one the
// assembler of CUDA 13.0 makes an instruction that an H200 calls illegal (docs/log.md).
DEVICE void warp_copy(u8* to, const u8* from, u32 bytes) {
  const u32 first = shared_address(to) + 16 * lane();
  from += 16 * lane();
  UNROLL
  for (u32 at = 0; at < bytes; at += 512)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(first + at), "l"(from + at) : "memory");
}
// The barrier counts this lane, too, until all that it has asked for is there.
DEVICE void arrive_with_copies(u64* b) {
  asm volatile("cp.async.mbarrier.arrive.shared.b64 [%0];" ::"r"(shared_address(b)) : "memory");
}

// Nothing here brings much into L2 by one instruction, and line by line it delays what the block waits for (docs/log.md).
DEVICE void bulk_prefetch(const void*, u32) {}
