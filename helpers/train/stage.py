"""The stage: from a language model and its tokens to an SAE's artifact."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from helpers import activations, artifacts, paths, ranks, sae, sources
from helpers.devices import find_device
from helpers.errors import InputError, unknown
from helpers.train.checkpoint import EVERY, Checkpoints
from helpers.train.loop import fit
from helpers.train.settings import Settings

LOG = "log.jsonl"


def make_sae(
    profile: str,
    name: str,
    model: Path,
    tokens: Path,
    hook_point: str = "blocks.0.mlp.hook_post",
    architecture: str = "topk",
    *,
    expansion: int = 8,
    k: int = 32,
    l1: float = 2.0,
    seed: int = 0,
    options: dict | None = None,
    checkpoint_every: float = EVERY,
    **settings,
) -> Path:
    """Train an SAE on a language model's activations; its artifact.

    ``model`` and ``tokens`` are artifacts; ``settings`` are fields of
    ``Settings``; ``k``, ``l1`` and ``options`` (an architecture's own) are
    as in ``sae.build``. A run that was stopped goes on from its last
    checkpoint (one every ``checkpoint_every`` seconds). With several ranks
    each calls it, and rank 0 writes. Raises InputError for an unknown
    architecture, hook point or setting, or text shorter than a context.
    """
    how = _settings({**settings, "seed": seed})
    ranked = "topk" in architecture or "matryoshka" in architecture
    shape = {"expansion": expansion, "k": k, "l1": l1, "seed": seed}
    parameters = {"hook_point": hook_point, "architecture": architecture}
    parameters |= {**shape, **(options or {}), **vars(how)}
    del parameters["l1" if ranked else "k"]  # it changes nothing
    kept = Checkpoints(
        paths.checkpoints(profile, name),
        _key(parameters, [model, tokens]),
        checkpoint_every,
        paths.tensorboard(profile, name),
    )

    def work() -> tuple[sae.SAE, list[dict]]:
        batches, d_in = _open(model, tokens, hook_point, how)
        new = sae.build(
            architecture, d_in, hook_point, **shape, **(options or {})
        )
        return new, fit(new.to(find_device()), batches, how, kept)

    path = paths.sae(profile, name)
    _produce(path, work, parameters, [model, tokens])
    kept.remove()
    return path


def load_sae(path: Path) -> sae.SAE:
    """The SAE of an artifact made by ``make_sae``, for inference."""
    return sae.load(artifacts.require(path))


def load_log(path: Path):
    """Its training log as a data frame: step, tokens, lr, fvu, l0, dead."""
    import pandas as pd

    return pd.read_json(artifacts.require(path) / LOG, lines=True)


def _produce(
    path: Path,
    work: Callable[[], tuple[sae.SAE, list[dict]]],
    parameters: dict,
    inputs: Sequence[Path],
) -> None:
    """Rank 0 produces the artifact; the others only share the work."""

    def make(folder: Path) -> None:
        ranks.tell(True)
        new, log = work()
        sae.save(new, folder)
        lines = "".join(json.dumps(line) + "\n" for line in log)
        (folder / LOG).write_text(lines)

    if ranks.index() == 0:
        artifacts.produce(path, make, parameters=parameters, inputs=inputs)
        ranks.tell(False)
    while ranks.index() > 0 and ranks.hear():
        work()


def _open(
    model: Path, tokens: Path, hook_point: str, how: Settings
) -> tuple[Callable[[int], Iterator[torch.Tensor]], int]:
    """The activations from a given batch on, and their width."""
    from helpers.language_model.models import load_language_model
    from helpers.text.tokens import load_tokens

    network, text = load_language_model(model), load_tokens(tokens).train

    def batches(start: int) -> Iterator[torch.Tensor]:
        stream = activations.stream(
            network, text, [hook_point], batch=how.batch, seed=how.seed,
            start=start,
        )  # fmt: skip
        return (part[hook_point] for part in stream)

    return batches, activations.width(network, hook_point)


def _key(parameters: dict, inputs: Sequence[Path]) -> str:
    """What a checkpoint must agree in: settings, data, code, libraries,
    and the ranks, whose number may change the last bits."""
    return artifacts.hash_of(
        [
            parameters,
            [artifacts.digest(path) for path in inputs],
            sources.closure_hash(__name__),
            artifacts.versions(),
            ranks.count(),
        ]
    )


def _settings(given: dict) -> Settings:
    for name in given:
        if name not in Settings.__dataclass_fields__:
            raise unknown(
                "training setting", name, Settings.__dataclass_fields__
            )
    how = Settings(**given)
    if how.batch < 1 or how.activations < how.batch:
        raise InputError(
            f"{how.activations} activations are fewer than one batch of "
            f"{how.batch}; ask for more, or for a smaller batch"
        )
    return how
