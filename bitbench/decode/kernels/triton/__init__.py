"""Decode steps for up to 16 sequences in Triton: a file for each kind of kernel, its launcher beside it.

Import these files only where Triton is installed. Triton compiles for GPUs alone: on a CPU the same kernels run under
its interpreter (TRITON_INTERPRET=1 before Triton is imported), slowly, which is what the tests do.
"""
