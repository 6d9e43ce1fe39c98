"""Activations of a language model, streamed from one forward pass.

A forward pass stops where the last number that is read is made: the
unembedding, most of a small model's cost, never runs. What is passed on are
activations of text tokens: the positions that hold the separator (which is
also the beginning-of-sequence token) are left out, here and in every metric.
"""

from helpers.activations.ahead import ahead
from helpers.activations.cache import cached
from helpers.activations.forward import run, width
from helpers.activations.stream import BOS, contexts, stream

__all__ = ["BOS", "ahead", "cached", "contexts", "run", "stream", "width"]
