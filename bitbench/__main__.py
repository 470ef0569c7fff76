"""`python -m bitbench`."""

from bitbench.cli import main

main()
