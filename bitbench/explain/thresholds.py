"""Where one cause ends and another begins. Every verdict follows from these numbers and a record's.

Sources are published measurements, or the arithmetic given beside the number.
"""

MOST = 0.5
"""What takes more than half of a step is its cause: without it the step would be more than twice as fast."""

BANDWIDTH_SHARE = 0.6
"""Bytes per step / step / measured read bandwidth from which reading memory sets the speed. Decoders made for speed
reach it and little more, of the datasheet's bandwidth: gpt-fast in BF16 on an A100-SXM-80GB 1,397 of 2,039 GB/s (69%,
its README), a Llama-1B megakernel 78% of an H100's, where vLLM and SGLang, bound by their number of kernels, stay
below 50% (Hazy Research, "Look Ma, No Bubbles!", 2025).
"""

COMPUTE_SHARE = 0.5
"""Operations per step / step / the measured rate of a large 16-bit product from which arithmetic sets the speed: then
it needs at least half of the step however it is done (MOST).
"""

MEMORY_LATENCY_S = 0.75e-6
"""How long a GPU's memory takes to answer while it is busy: some 3.4 MB must be in flight on an H200 for its measured
4.5 TB/s (Little's law: 3.4 MB / 4.5 TB/s).
"""

PLAIN_LAUNCH_S = 1.5e-6
"""The least that a kernel launched by itself costs the host, by C++ in a tight loop on Hopper. Python adds to it."""

MANY_SYNCS = 8
"""Waits a step from which they are taken to come from the layers. An engine waits once to three times a step for the
token and its stopping rule; the shallowest decoders in use have a dozen layers, and wait in each or in none.
"""

SYNC_GAIN = 0.1
"""The waits are called the cause only where a measured row without them is at least a tenth faster."""

ACCOUNT_TOLERANCE = 0.1
"""How far busy time + gaps may lie from the TPOT they explain: profiling and timing are two passes, between which
clocks and contexts differ by some percent.
"""


def large_kernel_bytes(bandwidth_bytes_per_s: float) -> float:
    """Bytes a kernel must read to be able to reach BANDWIDTH_SHARE.

    A kernel of B bytes takes at least latency + B / bandwidth, so it reaches B / (B + bandwidth * latency) of the
    bandwidth at most. Solved for that share: share / (1 - share) times the bandwidth-delay product.
    """
    return BANDWIDTH_SHARE / (1 - BANDWIDTH_SHARE) * bandwidth_bytes_per_s * MEMORY_LATENCY_S


LARGE_KERNEL_S = MEMORY_LATENCY_S / (1 - BANDWIDTH_SHARE)
"""What a perfect kernel of that size takes: shorter ones are small, where their bytes are not known."""
