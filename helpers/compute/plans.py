"""What the profiles and the poster train, and what that should cost."""

import functools
from pathlib import Path

import pandas as pd
import yaml

from helpers.compute import costs
from helpers.compute.costs import Plan, Shape
from helpers.errors import unknown

FILE = Path(__file__).with_name("models.yaml")
K = 32  # active latents of a TopK autoencoder


@functools.cache
def _content() -> dict:
    return yaml.safe_load(FILE.read_text())


def shapes() -> dict[str, Shape]:
    """Every model's sizes, by name."""
    return {
        name: Shape(**{k: v for k, v in row.items() if k != "source"})
        for name, row in _content()["models"].items()
    }


def cards() -> dict[str, dict]:
    """Published peak (operations a second) and memory (bytes) by card."""
    return _content()["cards"]


def find_card(name: str) -> dict:
    """A card's peak and memory; InputError for one that is not known."""
    if name not in cards():
        raise unknown("card", name, cards())
    return cards()[name]


def poster() -> dict:
    """What the poster says: card, cards, hours, memory and disk (bytes)."""
    return _content()["poster"]


def find_profile(name: str) -> dict:
    """A profile's row of the file; InputError for one that is not in it."""
    known = _content()["profiles"]
    if name not in known:
        raise unknown("profile", name, known)
    return known[name]


def plan_of(profile: str, sae_rate, model_rate, number=1) -> Plan:
    """A profile's plan on ``number`` cards of these rates (operations a
    second). Raises InputError for a profile that is not in the file."""
    row = find_profile(profile)
    shape, size = shapes()[row["model"]], (row["d_in"], row["d_sae"])
    kind = row["kind"]
    return Plan(
        tokens=row["tokens"], d_in=row["d_in"], d_sae=row["d_sae"],
        saes=row["saes"], cards=number, codes=costs.codes_held(kind),
        sae_flops=costs.topk_flops(*size, K) if kind == "TopK"
        else costs.dense_flops(*size),
        model_flops=costs.forward_flops(
            costs.forward_parameters(shape, row["read"], row["post"]),
            row["read"], row["context"], shape.d_attn,
        ),
        sae_rate=sae_rate, model_rate=model_rate,
        model_bytes=2 * costs.model_parameters(shape),
    )  # fmt: skip


def models_table() -> pd.DataFrame:
    """A row a model: its sizes, and millions of parameters in its layers
    and its embedding."""
    rows = {}
    for name, shape in shapes().items():
        layers = shape.layers * costs.layer_parameters(shape)
        rows[name] = {
            "layers": shape.layers, "width": shape.d_model,
            "neurons": shape.d_mlp,
            "layers, M": layers / 1e6,
            "embedding, M": shape.vocab * shape.d_model / 1e6,
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, "index")


def profiles_table(
    sae_rates: dict[str, float], model_rate: float, number: int = 1
) -> pd.DataFrame:
    """A row a profile: what it trains, and its bill at these rates.

    ``sae_rates``: operations a second for each kind of autoencoder. Columns:
    model, SAEs, d_in, latents, tokens (millions), operations (in all),
    hours, memory (GB of one card), disk (GB, nothing but checkpoints and
    the trained), stored (GB if activations are kept too), trained.
    """
    rows = {}
    for name, row in _content()["profiles"].items():
        plan = plan_of(name, sae_rates[row["kind"]], model_rate, number)
        parts = costs.bill(plan)
        total = {what: sum(parts[what].values()) for what in parts}
        stored = parts["disk"]["activations"]
        rows[name] = {
            "model": row["model"], "SAEs": row["saes"], "d_in": row["d_in"],
            "latents": row["d_sae"], "kind": row["kind"],
            "tokens": row["tokens"] / 1e6, "operations": operations(plan),
            "hours": total["hours"], "memory": total["memory"] / 1e9,
            "disk": (total["disk"] - stored) / 1e9,
            "stored": stored / 1e9, "trained": row["trained"],
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, "index")


def operations(plan: Plan) -> float:
    """Floating-point operations of a plan, model and autoencoders."""
    return plan.tokens * (plan.model_flops + plan.saes * plan.sae_flops)


def expansion_that_fills(plan: Plan, memory: float) -> float:
    """The expansion at which a plan's memory of a card is ``memory`` bytes.

    Memory grows linearly with the number of latents, so two bills tell.
    """

    def held(d_sae: float) -> float:
        return sum(costs.bill(plan._replace(d_sae=d_sae))["memory"].values())

    slope = held(plan.d_in) - held(0)
    return (memory - held(0)) / slope


def poster_ledger() -> pd.DataFrame:
    """The poster's figures beside arithmetic: said, predicted, ratio.

    ``ratio`` is predicted over said. The hours are predicted at the card's
    published peak, so that theirs over ours is the share of it reached.
    """
    said = poster()
    peak = find_card(said["card"])["peak"]
    plan = plan_of(said["profile"], peak, peak, said["cards"])
    parts = costs.bill(plan)
    found = {
        "hours": (said["hours"], sum(parts["hours"].values())),
        "memory of a card, GB": (
            said["memory"] / 1e9, sum(parts["memory"].values()) / 1e9
        ),
        "disk, TB": (said["disk"] / 1e12, sum(parts["disk"].values()) / 1e12),
    }  # fmt: skip
    table = pd.DataFrame(found, index=["said", "predicted"]).T
    return table.assign(ratio=table["predicted"] / table["said"])
