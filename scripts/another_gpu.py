"""The option of scripts that have the step kernel made as for an earlier GPU than the one it runs on."""

import argparse

from bitbench.decode.hardware import Hardware


def another_gpu(told: str) -> Hardware:
    """`8.0:108:163`: its compute capability, its multiprocessors, and the KB of shared memory that a block can have."""
    capability, multiprocessors, kilobytes = told.split(":")
    major, minor = map(int, capability.split("."))
    return Hardware((major, minor), int(multiprocessors), int(kilobytes) * 1024)


def add_to(parser: argparse.ArgumentParser) -> None:
    """`--gpu`, which may be repeated."""
    parser.add_argument(
        "--gpu",
        type=another_gpu,
        action="append",
        metavar="CAPABILITY:MULTIPROCESSORS:KB",
        help="made as for an earlier, smaller GPU and run on this one, which needs nvcc: 8.0:108:163 is an A100",
    )
