"""The stage: from a language model and its tokens to an SAE's artifact."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from helpers import activations, artifacts, paths, ranks, sae, sources
from helpers.devices import find_device, find_precision
from helpers.errors import InputError, unknown
from helpers.train.checkpoint import EVERY, Checkpoints
from helpers.train.loop import Job, fit_together
from helpers.train.settings import Settings

LOG = "log.jsonl"
HOOK_POINT = "blocks.0.mlp.hook_post"
# What makes one SAE, beside the fields of Settings and ``data_seed``.
DEFAULTS = {
    "hook_point": HOOK_POINT,
    "architecture": "topk",
    "expansion": 8,
    "k": 32,
    "l1": 2.0,
    "seed": 0,
    "options": {},
}


def make_sae(
    profile: str,
    name: str,
    model: Path,
    tokens: Path,
    hook_point: str = HOOK_POINT,
    architecture: str = "topk",
    *,
    checkpoint_every: float = EVERY,
    cache: bool = False,
    **how,
) -> Path:
    """Train an SAE on a language model's activations; its artifact.

    The case of one of ``make_saes``, which names the settings in ``how``.
    """
    how |= {"hook_point": hook_point, "architecture": architecture}
    return make_saes(
        profile, {name: how}, model, tokens,
        checkpoint_every=checkpoint_every, cache=cache,
    )[name]  # fmt: skip


def make_saes(
    profile: str,
    wanted: Mapping[str, Mapping],
    model: Path,
    tokens: Path,
    *,
    checkpoint_every: float = EVERY,
    cache: bool = False,
) -> dict[str, Path]:
    """Train those of several SAEs that are not there yet, all in one pass.

    ``model`` and ``tokens`` are artifacts; ``wanted`` maps an SAE's name to
    its ``hook_point``, ``architecture``, ``expansion``, ``k``, ``l1``,
    ``seed`` (of its weights and of what is drawn while it trains),
    ``options`` (an architecture's own, see ``sae.build``), ``data_seed``
    (of the order of the text; by default ``seed``) and the fields of
    ``Settings``. One stream feeds all, so ``batch`` and ``data_seed`` must
    be the same; each ends with the bits that it has when made alone.

    A run that was stopped goes on from its last checkpoints (one every
    ``checkpoint_every`` seconds). ``cache``: keep the activations on disk
    and read them from there again. With several ranks each calls it, and
    rank 0 writes. Raises InputError for an unknown architecture, hook point
    or setting, SAEs that cannot share a pass, or text shorter than a
    context.
    """
    plans = [_plan(name, {**DEFAULTS, **how}) for name, how in wanted.items()]
    _check_alike(plans)
    inputs = model, tokens
    for plan in plans:
        plan.kept = Checkpoints(
            paths.checkpoints(profile, plan.name),
            _key(plan.parameters, inputs),
            checkpoint_every,
            paths.tensorboard(profile, plan.name),
        )
    where = paths.activations(profile) if cache else None

    def work(names: list[str]) -> None:
        _train([p for p in plans if p.name in names], *inputs, where)

    if ranks.index() == 0:
        _produce(profile, plans, inputs, work)
        ranks.tell([])
    while ranks.index() > 0 and (names := ranks.hear()):
        work(names)
    for plan in plans:
        plan.kept.remove()
    return {name: paths.sae(profile, name) for name in wanted}


def load_sae(path: Path) -> sae.SAE:
    """The SAE of an artifact made by ``make_sae``, for inference."""
    return sae.load(artifacts.require(path))


def load_log(path: Path):
    """Its training log as a data frame: step, tokens, lr, fvu, l0, dead."""
    import pandas as pd

    return pd.read_json(artifacts.require(path) / LOG, lines=True)


@dataclass
class _Plan:
    """One SAE: how it is made and, once it is, what came of it."""

    name: str
    hook_point: str
    data_seed: int
    settings: Settings
    build: Callable[[int], sae.SAE]  # from d_in
    parameters: dict  # all that decides its weights, for its artifact
    kept: Checkpoints | None = None
    model: sae.SAE | None = None
    log: list[dict] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write the trained SAE and its log."""
        sae.save(self.model, folder)
        lines = "".join(json.dumps(line) + "\n" for line in self.log)
        (folder / LOG).write_text(lines)


def _plan(name: str, how: dict) -> _Plan:
    """Check what was asked for."""
    hook_point, options = how.pop("hook_point"), how.pop("options") or {}
    architecture = how.pop("architecture")
    data_seed = how.pop("data_seed", how["seed"])
    shape = {key: how.pop(key) for key in ("expansion", "k", "l1")}
    settings, seed = _settings(how), how["seed"]
    ranked = "topk" in architecture or "matryoshka" in architecture
    parameters = {"hook_point": hook_point, "architecture": architecture}
    parameters |= {**shape, **options, **vars(settings)}
    parameters["data_seed"] = data_seed
    del parameters["l1" if ranked else "k"]  # it changes nothing

    def build(d_in: int) -> sae.SAE:
        return sae.build(
            architecture, d_in, hook_point, seed=seed, **shape, **options
        )

    return _Plan(name, hook_point, data_seed, settings, build, parameters)


def _check_alike(plans: Sequence[_Plan]) -> None:
    """Raise InputError unless one stream can feed them all."""
    for what, values in [
        ("batch", [plan.settings.batch for plan in plans]),
        ("data_seed", [plan.data_seed for plan in plans]),
    ]:
        if len({*values}) > 1:
            found = zip(plans, values, strict=True)
            said = ", ".join(f"{plan.name} {value}" for plan, value in found)
            raise InputError(
                f"SAEs made in one pass must have the same {what}, not "
                f"{said}; give all of them the same, or make them one by one"
            )


def _produce(
    profile: str,
    plans: Sequence[_Plan],
    inputs: Sequence[Path],
    work: Callable[[list[str]], None],
    missing: Sequence[str] = (),
) -> None:
    """Make the artifacts of the first plan, and of the others within it:
    ``work`` trains, once, all that are found ``missing`` on the way."""
    if not plans:
        if missing:
            ranks.tell([*missing])
            work([*missing])
        return
    plan, rest, is_missing = plans[0], plans[1:], False

    def make(folder: Path) -> None:
        nonlocal is_missing
        is_missing = True
        _produce(profile, rest, inputs, work, [*missing, plan.name])
        plan.save(folder)

    path = paths.sae(profile, plan.name)
    artifacts.produce(path, make, parameters=plan.parameters, inputs=inputs)
    if not is_missing:
        _produce(profile, rest, inputs, work, missing)


def _train(
    plans: Sequence[_Plan], model: Path, tokens: Path, cache: Path | None
) -> None:
    """Train them on one stream of activations."""
    from helpers.language_model.models import load_language_model
    from helpers.text.tokens import load_tokens

    network, text = load_language_model(model), load_tokens(tokens).train
    hooks = sorted({plan.hook_point for plan in plans})
    dtype = find_precision(find_device())
    data = {"batch": plans[0].settings.batch, "seed": plans[0].data_seed}
    key = _key({**data, "hook_points": hooks, "dtype": str(dtype)},
               [model, tokens])  # fmt: skip

    def stream(start: int) -> Iterator[dict[str, torch.Tensor]]:
        return activations.stream(
            network, text, hooks, **data, dtype=dtype, start=start,
            overlap=True,
        )  # fmt: skip

    def batches(start: int) -> Iterator[dict[str, torch.Tensor]]:
        found = stream(start)
        if cache:
            found = activations.cached(cache / key[:16], stream, start)
        return opened.enter_context(contextlib.closing(found))

    jobs = []
    for plan in plans:
        new = plan.build(activations.width(network, plan.hook_point))
        jobs.append(Job(new.to(find_device()), plan.settings, plan.kept))
    with contextlib.ExitStack() as opened:
        logs = fit_together(jobs, batches)
    for plan, job, log in zip(plans, jobs, logs, strict=True):
        plan.model, plan.log = job.model, log


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
