"""bitbench: which precision to run a language model in, what it costs, and why it is as fast as it is."""

__version__ = "0.1.0"
