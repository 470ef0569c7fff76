"""`python benchmark.py` does what `bitbench run` does."""

import sys

from bitbench.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
