"""What is compared: a version is a library in one of its settings."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

from helpers.errors import InputError

ARCHITECTURES = (
    "topk", "batchtopk", "standard", "jumprelu", "gated",
    "matryoshka_batchtopk",
)  # fmt: skip
WARM_UP, DECAY = 0.05, 0.2  # shares of a run, for every version


@dataclass(frozen=True)
class Task:
    """What to train: equal for all versions, in our units.

    ``coefficient``: L1 (``standard``, ``gated``) in sum units, for
    activations of mean norm sqrt(d_in); JumpReLU: the L0 aimed at.
    """

    architecture: str
    d_in: int
    d_sae: int
    k: int = 32
    batch: int = 4096
    steps: int = 1_000_000
    lr: float = 1e-6  # so small that timed steps change nothing
    coefficient: float = 2.0
    dead_after: int = 10_000_000  # tokens
    seed: int = 0
    device: str = "cpu"

    @property
    def widths(self) -> list[int]:
        """The nested dictionaries of Matryoshka."""
        shares = (1 / 32, 3 / 32, 7 / 32, 15 / 32, 1.0)
        return [int(self.d_sae * share) for share in shares]

    @property
    def warm_up(self) -> int:
        """Steps over which the learning rate rises."""
        return max(round(WARM_UP * self.steps), 1)

    @property
    def decay(self) -> int:
        """Steps over which it falls."""
        return max(round(DECAY * self.steps), 1)


class Trainer(Protocol):
    """One SAE in training, driven from outside by the step."""

    def step(self, x: torch.Tensor) -> None:
        """A whole training step on [batch, d_in]."""

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        """Codes as training makes them: [n, d_in] -> [n, d_sae]."""

    def rebuild(self, codes: torch.Tensor) -> torch.Tensor:
        """[n, d_sae] -> [n, d_in]."""

    def directions(self) -> torch.Tensor:
        """The decoder's rows: [d_sae, d_in]."""

    def set_bias(self, value: float) -> None:
        """Set every encoder bias, to decide how many latents fire."""

    def close(self) -> None:
        """Training is over."""


@dataclass(frozen=True)
class Version:
    """A library, a setting of it, and how to start training with it."""

    library: str
    setting: str
    make: Callable[[Task], Trainer] = field(compare=False)
    architectures: tuple[str, ...] = ARCHITECTURES
    ours: bool = False
    note: str = ""

    @property
    def name(self) -> str:
        """Library and setting in one."""
        return f"{self.library}, {self.setting}"


PEERS = {  # module here -> what it imports
    "sae_lens_peer": "sae_lens",
    "dictionary_learning_peer": "dictionary_learning",
    "sparsify_peer": "sparsify",
}


def load_peers() -> list[Version]:
    """Versions of every peer. InputError if one is not installed."""
    found = []
    for module, needs in PEERS.items():
        try:
            importlib.import_module(needs)
        except ImportError as error:
            raise InputError(
                f"the peer {needs} cannot be imported ({error}); run `make "
                "bench`, which installs the peers into .venv-bench"
            ) from error
        found += importlib.import_module(f"tests.bench.{module}").VERSIONS
    return found


def load_all() -> list[Version]:
    """Our versions, then the peers'."""
    from tests.bench import ours

    return [*ours.VERSIONS, *load_peers()]


def takes(versions: list[Version], architecture: str) -> list[Version]:
    """Those that train an architecture."""
    return [v for v in versions if architecture in v.architectures]
