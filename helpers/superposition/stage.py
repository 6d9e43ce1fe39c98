"""The toys and the phase diagram as artifacts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from helpers import artifacts, paths
from helpers.errors import InputError
from helpers.superposition import phases
from helpers.superposition.geometry import outcomes
from helpers.superposition.toys import OUTPUTS, Toys, geometric, losses, train

WEIGHTS = "toys.safetensors"
CONDITIONS = "conditions.json"
DIAGRAM = "diagram.parquet"
DENSITIES = 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001  # 1 - S


@dataclass(frozen=True)
class Run:
    """Toys and the conditions they were trained under."""

    toys: Toys
    outputs: tuple[str, ...]
    densities: tuple[float, ...]
    importance: torch.Tensor  # [n]

    def outcomes(self) -> pd.DataFrame:
        """A row a toy, see ``geometry.outcomes``, and its loss."""
        found = outcomes(self.toys, self.densities, self.outputs)
        lost = losses(
            self.toys, self.densities, self.importance, self.outputs
        )
        return found.assign(loss=lost.flatten().numpy())

    def weights(self, output: str = "relu", seed: int = 0) -> torch.Tensor:
        """W of one seed under every condition, [conditions, n, m]."""
        return self.toys.W[self.outputs.index(output), :, seed]


def make_toys(
    profile: str,
    name: str,
    *,
    features: int = 20,
    hidden: int = 5,
    decay: float = 0.7,
    densities: Sequence[float] = DENSITIES,
    outputs: Sequence[str] = OUTPUTS,
    seeds: int = 5,
    first_seed: int = 0,
    **how: float,
) -> Path:
    """Train toys as one batch; their artifact.

    Importances are ``decay ** i``; seeds count on from ``first_seed``;
    ``how``: steps, batch and lr of ``toys.train``. InputError for
    fewer than one feature, hidden number or seed, and as in ``toys.train``.
    """
    for what, value in (
        ("features", features), ("hidden", hidden), ("seeds", seeds),
    ):  # fmt: skip
        if value < 1:
            raise InputError(f"{what} must be at least 1, not {value}")
    conditions = {
        "outputs": list(outputs),
        "densities": list(densities),
        "importance": geometric(features, decay).tolist(),
    }
    drawn = range(first_seed, first_seed + seeds)

    def make(folder: Path) -> None:
        from safetensors.torch import save_file

        importance = torch.tensor(conditions["importance"])
        trained = train(
            densities, importance, hidden, outputs=outputs, seeds=drawn, **how
        )
        save_file(trained._asdict(), folder / WEIGHTS)
        artifacts.write_json(folder / CONDITIONS, conditions)

    return artifacts.produce(
        paths.superposition(profile, name),
        make,
        parameters={**conditions, **how, "hidden": hidden, "seeds": [*drawn]},
    )


def load_toys(path: Path) -> Run:
    """The toys of an artifact made by ``make_toys``."""
    from safetensors.torch import load_file

    folder = artifacts.require(path)
    conditions = json.loads((folder / CONDITIONS).read_text())
    return Run(
        Toys(**load_file(folder / WEIGHTS)),
        tuple(conditions["outputs"]),
        tuple(conditions["densities"]),
        torch.tensor(conditions["importance"]),
    )


def make_diagram(
    profile: str,
    densities: Sequence[float],
    importances: Sequence[float],
    **how: float,
) -> Path:
    """The phase diagram's artifact; ``how`` as in ``phases.diagram``."""

    def make(folder: Path) -> None:
        found = phases.diagram(densities, importances, **how)
        found.to_parquet(folder / DIAGRAM, index=False)

    grid = {"densities": list(densities), "importances": list(importances)}
    return artifacts.produce(
        paths.superposition(profile, "phases"),
        make,
        parameters={**grid, **how},
    )


def load_diagram(path: Path) -> pd.DataFrame:
    """The frame of ``phases.diagram``."""
    return pd.read_parquet(artifacts.require(path) / DIAGRAM)
