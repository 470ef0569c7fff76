"""GPUs of several kinds, as CUDA describes them (compute capabilities' table of the CUDA C++ Programming Guide)."""

from bitbench.decode.hardware import Hardware

H200 = Hardware((9, 0), 132, 227 * 1024)
A100 = Hardware((8, 0), 108, 163 * 1024)
RTX_3090 = Hardware((8, 6), 82, 99 * 1024)
RTX_4090 = Hardware((8, 9), 128, 99 * 1024)
T4 = Hardware((7, 5), 40, 64 * 1024)
