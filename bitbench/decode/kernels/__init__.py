"""The decoder's fast kernels: `step`, CUDA C++ for new GPUs, and `triton`."""
