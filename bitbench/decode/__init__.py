"""A small decoder for Llama-family models, usable alone: `from bitbench.decode import load`."""

from bitbench.decode.decoder import METHODS, Decoder, load
from bitbench.decode.sampling import Sampling

__all__ = ["METHODS", "Decoder", "Sampling", "load"]
