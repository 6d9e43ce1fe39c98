"""What was measured: the benchmark's rates and the record of a run.

A rate is floating-point operations (by ``costs``) over measured seconds. It
belongs to the device that the results file names, and to no other.
"""

import json
import math
import numbers
from typing import NamedTuple

import pandas as pd

from helpers import bench_results, paths
from helpers.compute import costs
from helpers.compute.plans import operations, plan_of, poster, shapes

FILES = "bench", "bench-gpu"  # results of `make bench`, of any device
RECORD = "costs"  # what runs took (helpers.compute.record)
KINDS = {"topk": "TopK", "standard": "dense"}
SETTINGS = bench_results.NATIVE, bench_results.PLAIN  # the first that is there


class Device(NamedTuple):
    """Rates on one device, operations a second; NaN where not measured."""

    name: str
    date: str
    sae: dict[str, float]  # by kind of autoencoder
    model: float  # a language model's forward pass
    model_from: str  # where the last one comes from, in words


def devices(record: dict | None = None) -> list[Device]:
    """Every device with results of the benchmark."""
    found = [f for f in FILES if paths.results(f).exists()]
    return [_device(bench_results.load(name), record) for name in found]


def missing(device: Device) -> str:
    """What was not measured on a device, in words."""
    rates = {**device.sae, "language model": device.model}
    left = [name for name, rate in rates.items() if math.isnan(rate)]
    return ", ".join(left) or "nothing"


def shown(value: float | None, spec: str) -> str:
    """A number for the prose, or words where there is none."""
    if value is None or math.isnan(value):
        return "not measured"
    return format(value, spec)


def readable(value: object) -> object:
    """A number as text: whole ones as they are, others with the three
    digits that count; anything else is returned."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return f"{value:,}"
    if not isinstance(value, float):
        return value
    if math.isnan(value):
        return shown(value, "")
    return f"{float(f'{value:.3g}'):,.10g}"


def work_table(results: dict) -> pd.DataFrame:
    """``work`` for the page: millions of operations a token, thousands of
    millions a second."""
    table = work(results).rename(columns={"tokens": "tokens a second"})
    table["operations a token, M"] = table.pop("flops") / 1e6
    table["rate, G a second"] = table.pop("rate") / 1e9
    return table.set_index(["kind", "expansion", "setting"]).round(1)


def work(results: dict) -> pd.DataFrame:
    """A row a measured step: kind, setting, expansion, d_sae, tokens (a
    second), flops (operations a token) and rate (a second)."""
    settings = results["about"]["settings"]
    d_in, k = settings["d_in"], settings["k"]
    rows = []
    for unit in bench_results.units(results, "speed"):
        if not _counts(unit):
            continue
        kind, d_sae = KINDS[unit["architecture"]], unit["expansion"] * d_in
        flops = costs.dense_flops(d_in, d_sae)
        if kind == "TopK":
            flops = costs.topk_flops(d_in, d_sae, k)
        for row in unit["rows"]:
            if row["ours"] and row.get("seconds"):
                tokens = bench_results.rate(row, unit["batch"])
                rows.append([kind, row["setting"], unit["expansion"], d_sae,
                             tokens, flops, tokens * flops])  # fmt: skip
    columns = ["kind", "setting", "expansion", "d_sae", "tokens", "flops",
               "rate"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def scaling(results: dict) -> pd.DataFrame:
    """Whether the arithmetic carries over to another size.

    A row a kind: tokens a second at the largest dictionary, predicted from
    the smallest by operations alone, measured, and predicted / measured.
    """
    rows = {}
    for kind, part in _best(work(results)).groupby("kind", sort=False):
        part = part.sort_values("expansion")
        small, large = part.iloc[0], part.iloc[-1]
        if small["expansion"] < large["expansion"]:
            guess = small["rate"] / large["flops"]
            rows[kind] = {
                "from": small["expansion"], "to": large["expansion"],
                "predicted": guess, "measured": large["tokens"],
                "ratio": guess / large["tokens"],
            }  # fmt: skip
    columns = ["from", "to", "predicted", "measured", "ratio"]
    return pd.DataFrame.from_dict(rows, "index", columns=columns)


def memory_table(results: dict) -> pd.DataFrame:
    """Peak of a training step beside ``costs.step_bytes``, MiB.

    Columns: kind, setting, expansion, predicted, measured, ratio
    (predicted / measured).
    """
    settings, rows = results["about"]["settings"], []
    for unit in bench_results.units(results, "memory"):
        for row in unit["rows"]:
            if not row["ours"] or row["architecture"] not in KINDS:
                continue
            kind, d_in = KINDS[row["architecture"]], settings["d_in"]
            size = d_in, unit["expansion"] * d_in
            guess = costs.step_bytes(*size, kind, settings["batch"]) / 2**20
            measured = row.get("mib", math.nan)
            rows.append([kind, row["setting"], unit["expansion"], guess,
                         measured, guess / measured])  # fmt: skip
    columns = ["kind", "setting", "expansion", "predicted", "measured",
               "ratio"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def recorded() -> dict:
    """{profile: what its run took}, as ``helpers.compute.record`` wrote it;
    empty where nothing was."""
    file = paths.results(RECORD)
    return json.loads(file.read_text()) if file.exists() else {}


def runs_table(runs: dict) -> pd.DataFrame:
    """A row a recorded profile: device, minutes of all its chapters, peak
    memory of the largest process (GiB, of the computer, not of a card) and
    disk (GiB)."""
    rows = {
        profile: {
            "device": f"{run['device']}, {run['threads']} threads",
            "minutes": sum(c["seconds"] for c in run["chapters"].values()) / 60,
            "memory": max(
                c["peak_memory_mib"] for c in run["chapters"].values()
            ) / 1024,
            "disk": run["disk_mib"] / 1024,
        }
        for profile, run in runs.items()
    }  # fmt: skip
    columns = ["device", "minutes", "memory", "disk"]
    return pd.DataFrame.from_dict(rows, "index", columns=columns)


def hours_table(run: dict, device: Device) -> pd.DataFrame:
    """A run's autoencoders: what they took, and what the bill says.

    Columns: seconds and predicted, ratio (predicted / measured); the same
    for peak memory and disk (MiB). The predicted time is of a device with
    nothing else to do; the measured memory includes Python and its
    libraries, and all that its process held before.
    """
    rows = {}
    for name, sae in run["saes"].items():
        guess = _guess(sae, run["language_model"], device)
        row = {}
        for what, key in {"seconds": "seconds", "memory": "peak_memory_mib",
                          "disk": "disk_mib"}.items():  # fmt: skip
            row[what], row[f"{what} predicted"] = sae[key], guess[what]
            row[f"{what} ratio"] = guess[what] / sae[key]
        rows[name] = row
    return pd.DataFrame.from_dict(rows, "index")


def ledgers(run: dict) -> pd.DataFrame:
    """The poster's bill beside a run's: a column each.

    The poster's operations rest on its plan in ``models.yaml``; hours and
    devices are what each states. ``rate``: operations a second and device.
    """
    said, model = poster(), run["language_model"]
    plan = plan_of(said["profile"], 1, 1, said["cards"])
    saes = run["saes"].values()
    both = {
        "poster": {
            "activations": plan.tokens * plan.saes,
            "operations": operations(plan),
            "device hours": said["hours"] * said["cards"],
        },
        "run": {
            "activations": sum(sae["activations"] for sae in saes),
            "operations": sum(_operations(sae, model) for sae in saes),
            "device hours": sum(sae["seconds"] for sae in saes) / costs.HOUR,
        },
    }
    for column in both.values():
        seconds = column["device hours"] * costs.HOUR
        column["activations a second"] = column["activations"] / seconds
        column["rate"] = column["operations"] / seconds
    return pd.DataFrame(both)


def _operations(sae: dict, model: dict) -> float:
    """Of training an autoencoder, the forward pass that feeds it included."""
    each = _sae_flops(sae) + _forward(model, post=True)
    return sae["activations"] * each


def _sae_flops(sae: dict) -> float:
    size = sae["d_in"], sae["d_sae"]
    if sae["kind"] == "TopK":
        return costs.topk_flops(*size, sae["k"])
    return costs.dense_flops(*size)


def _guess(sae: dict, model: dict, device: Device) -> dict[str, float]:
    size, tokens = (sae["d_in"], sae["d_sae"]), sae["activations"]
    kind, batch = sae["kind"], sae["batch"]
    forward = _forward(model, post=True)
    seconds = _sae_flops(sae) / device.sae[kind] + forward / device.model
    held = costs.step_bytes(*size, kind, batch) + costs.buffer_bytes(size[0])
    return {
        "seconds": tokens * seconds,
        "memory": held / 2**20,
        "disk": 4 * costs.sae_parameters(*size) / 2**20,
    }


def _device(results: dict, record: dict | None) -> Device:
    about = results["about"]
    name = about["gpu"] or f"{about['processor']}, {about['threads']} threads"
    steps = _best(work(results)).sort_values("expansion", kind="stable")
    rates = steps.drop_duplicates("kind").set_index("kind")["rate"]
    sae = {kind: rates.get(kind, math.nan) for kind in KINDS.values()}
    model, words = _model_rate(results, record)
    return Device(name, about["date"], sae, model, words)


def _model_rate(results: dict, record: dict | None) -> tuple[float, str]:
    """From the benchmark's harvest; else from training a language model."""
    table = bench_results.end_to_end_table(results)
    harvest = table.loc[table["what"] == bench_results.ALONE[0], "rate"]
    if len(harvest):
        shape = shapes()["specimen"]
        model = {"layers": shape.layers, "d_model": shape.d_model,
                 "d_mlp": shape.d_mlp, "heads": shape.heads,
                 "vocab_size": shape.vocab, "context": 128}  # fmt: skip
        rate = harvest.iloc[0] * _forward(model, post=True)
        return rate, "the benchmark's harvest"
    if not record or results["about"]["gpu"]:
        return math.nan, "nothing"
    model = record["language_model"]
    whole = _forward(model) + 2 * model["d_model"] * model["vocab_size"]
    spent = costs.training_flops(whole) * model["train_tokens"]
    return spent / model["seconds"], "the training of the language model"


def _forward(model: dict, post: bool = False) -> float:
    """Operations a token of one of our own transformers."""
    wide, heads = model["d_model"], model["heads"]
    shape = costs.Shape(
        model["layers"], wide, model["d_mlp"], heads, wide // heads, heads,
        model["vocab_size"],
    )  # fmt: skip
    layers = shape.layers
    used = costs.forward_parameters(shape, layers, post)
    return costs.forward_flops(used, layers, model["context"], shape.d_attn)


def _best(steps: pd.DataFrame) -> pd.DataFrame:
    """Each kind and size once, with native kernels where they ran."""
    order = {setting: place for place, setting in enumerate(SETTINGS)}
    known = steps[steps["setting"].isin(SETTINGS)]
    ranked = known.sort_values(
        "setting", key=lambda names: names.map(order), kind="stable"
    )
    return ranked.drop_duplicates(["kind", "expansion"]).sort_index()


def _counts(unit: dict) -> bool:
    """Single steps on synthetic data, of kinds whose cost is known."""
    plain = unit["architecture"] == "topk" or unit["regime"] == "dense"
    known = unit["architecture"] in KINDS and plain
    return known and unit["data"] == "synthetic"
