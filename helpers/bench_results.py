"""The benchmark's results (``make bench``) as tables.

A row compares ours with the *best peer*: the library and setting that was
fastest (or, for quality, came closest to the activations) in that row.
"""

import json
import statistics

import pandas as pd

from helpers import paths
from helpers.errors import InputError

NAMES = {
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "standard": "L1",
    "jumprelu": "JumpReLU",
    "gated": "Gated",
    "matryoshka_batchtopk": "Matryoshka",
}
REGIMES = {"dense": "dense codes", "sparse": "sparse codes",
           "run": "whole run"}  # fmt: skip
QUALITY = ["what", "tokens", "fvu", "peer_fvu", "fvu_ratio", "fvu_low",
           "fvu_high", "mmcs", "peer_mmcs", "mcc", "peer_mcc", "lr",
           "peer_lr", "peer_name"]  # fmt: skip
NATIVE, PLAIN = "native kernels", "plain PyTorch"
ALONE = "harvest alone", "training alone"
VERSIONS = {
    "ours": f"ours, {NATIVE}",
    "plain": f"ours, {PLAIN}",
    "peer": "best peer",
    "floor": "dense products alone",
}


def load(name: str = "bench") -> dict:
    """Results of ``make bench`` (or ``bench-full``); InputError if none."""
    file = paths.results(name)
    if not file.exists():
        raise InputError(
            f"no results of the benchmark in {file.name}; run `make {name}`"
        )
    return json.loads(file.read_text())


def label(architecture: str, regime: str, expansion: int) -> str:
    """A row's name: "L1 32x, sparse codes"."""
    name = f"{NAMES[architecture]} {expansion}x"
    return f"{name}, {REGIMES[regime]}" if regime else name


def rate(row: dict, batch: int, regime: str = "") -> float:
    """Tokens a second: of the median round, or over a whole run."""
    seconds = [value for value in row["seconds"] if value]
    if not seconds:
        return float("nan")
    typical = statistics.mean if regime == "run" else statistics.median
    return batch / typical(seconds)


def ratios(ours: dict, theirs: dict) -> list[float]:
    """How many times faster ours is, a number for each shared round."""
    pairs = zip(ours["seconds"], theirs["seconds"], strict=False)
    return [b / a for a, b in pairs if a and b]


def speed_table(results: dict) -> pd.DataFrame:
    """A row an architecture, regime and size, in tokens a second.

    Columns: what, ours, plain, peer, peer_name, ratio (median of the
    rounds' ratios; over a whole run the ratio of its times), ratio_low,
    ratio_high (their range), plain_ratio, floor (a step's matrix products
    alone, dense), share_of_floor, memory, peer_memory (peak, MiB). Missing
    values are NaN.
    """
    rows = [_speed_row(unit, results) for unit in units(results, "speed")]
    return pd.DataFrame([row for row in rows if row])


def speeds(results: dict) -> pd.DataFrame:
    """The same in long form: what, version, tokens_per_second."""
    table = speed_table(results)
    long = table.melt("what", list(VERSIONS), "version", "tokens_per_second")
    long["version"] = long["version"].map(VERSIONS)
    return long.dropna(ignore_index=True)


def quality_table(results: dict) -> pd.DataFrame:
    """A row an architecture: FVU at L0 = k, directions found again.

    Columns: what, tokens, fvu, peer_fvu, fvu_ratio (below 1: ours rebuilds
    better), fvu_low, fvu_high (range of the seeds' ratios), mmcs,
    peer_mmcs, mcc, peer_mcc, lr, peer_lr, peer_name; means over seeds.
    ``peer_mmcs`` and ``peer_mcc`` are the best of any peer.
    """
    rows = [_quality_row(unit) for unit in units(results, "quality")]
    return pd.DataFrame([row for row in rows if row], columns=QUALITY)


def specimen_table(results: dict) -> pd.DataFrame:
    """A row a version: what, loss_recovered, fvu, l0, lr."""
    found = [
        {"what": f"{row['library']}, {row['setting']}"}
        | {key: row[key] for key in ("loss_recovered", "fvu", "l0", "lr")}
        for unit in units(results, "specimen")
        for row in unit["rows"]
        if "error" not in row
    ]
    columns = ["what", "loss_recovered", "fvu", "l0", "lr"]
    return pd.DataFrame(found, columns=columns)


def end_to_end_table(results: dict) -> pd.DataFrame:
    """Harvest and training, alone and together: what, rate, share, low, high.

    ``rate``: tokens a second, the median over rounds. ``share``: the median
    over rounds of the rate's share of the slower one's alone, which together
    cannot pass; ``low`` and ``high`` its range.
    """
    columns = ["what", "rate", "share", "low", "high"]
    rows = []
    for unit in units(results, "end_to_end"):
        times = {row["what"]: row["seconds"] for row in unit["rows"]}
        alone = (times[what] for what in ALONE)
        slower = [max(pair) for pair in zip(*alone, strict=True)]
        for what, seconds in times.items():
            shares = [a / b for a, b in zip(slower, seconds, strict=True)]
            rate = unit["batch"] / statistics.median(seconds)
            share = statistics.median(shares)
            rows.append([what, rate, share, min(shares), max(shares)])
    return pd.DataFrame(rows, columns=columns)


def failures(results: dict) -> pd.DataFrame:
    """What did not run: section, what, reason."""
    found = [
        {
            "section": unit["section"],
            "what": f"{_name(unit, row)} {row['library']}, {row['setting']}",
            "reason": row["error"],
        }
        for unit in results["units"]
        for row in unit["rows"]
        if "error" in row
    ]
    return pd.DataFrame(found, columns=["section", "what", "reason"])


def units(results: dict, section: str) -> list[dict]:
    """The units of a section, in the order in which they were measured."""
    return [u for u in results["units"] if u["section"] == section]


def _speed_row(unit: dict, results: dict) -> dict | None:
    rows = {(r["library"], r["setting"]): r for r in unit["rows"]}
    regime, nothing = unit["regime"], {"seconds": []}
    rates = {k: rate(r, unit["batch"], regime) for k, r in rows.items()}
    peers = [k for k in rows if not rows[k]["ours"] and k[0] != "floor"]
    peers = [k for k in peers if rates[k] == rates[k]]
    if not peers:
        return None
    best = max(peers, key=rates.get)
    native, plain = ("ours", NATIVE), ("ours", PLAIN)
    mine = rates.get(native, float("nan"))
    paired = ratios(rows.get(native, nothing), rows[best]) or [float("nan")]
    whole = mine / rates[best]
    floor = rates.get(("floor", "dense products"), float("nan"))
    ratio = whole if regime == "run" else statistics.median(paired)
    return {
        "what": _name(unit, {}), "ours": mine,
        "plain": rates.get(plain, float("nan")), "peer": rates[best],
        "peer_name": ", ".join(best), "ratio": ratio,
        "ratio_low": min(paired), "ratio_high": max(paired),
        "plain_ratio": rates.get(plain, float("nan")) / rates[best],
        "floor": floor, "share_of_floor": mine / floor,
        "memory": _memory(unit, results, native),
        "peer_memory": _memory(unit, results, best),
    }  # fmt: skip


def _memory(unit: dict, results: dict, version: tuple) -> float:
    """Peak memory of a version on this row's architecture and size, MiB."""
    for found in units(results, "memory"):
        if found["expansion"] == unit["expansion"]:
            for row in found["rows"]:
                same = (row["library"], row["setting"]) == version
                if same and row["architecture"] == unit["architecture"]:
                    return row.get("mib", float("nan"))
    return float("nan")


def _quality_row(unit: dict) -> dict | None:
    rows = [row for row in unit["rows"] if "error" not in row]
    mine = [row for row in rows if row["ours"]]
    peers = [row for row in rows if not row["ours"]]
    if not mine or not peers:
        return None
    (mine,), mean = mine, statistics.mean
    best = min(peers, key=lambda row: mean(row["fvu"]))
    pairs = [a / b for a, b in zip(mine["fvu"], best["fvu"], strict=True)]
    return {
        "what": _name(unit, {}), "tokens": unit["steps"] * unit["batch"],
        "fvu": mean(mine["fvu"]), "peer_fvu": mean(best["fvu"]),
        "fvu_ratio": mean(mine["fvu"]) / mean(best["fvu"]),
        "fvu_low": min(pairs), "fvu_high": max(pairs),
        "mmcs": mean(mine["mmcs"]),
        "peer_mmcs": max(mean(row["mmcs"]) for row in peers),
        "mcc": mean(mine["mcc"]),
        "peer_mcc": max(mean(row["mcc"]) for row in peers),
        "lr": mine["lr"], "peer_lr": best["lr"],
        "peer_name": f"{best['library']}, {best['setting']}",
    }  # fmt: skip


def _name(unit: dict, row: dict) -> str:
    architecture = unit.get("architecture") or row.get("architecture")
    if architecture is None:
        return ""
    expansion = unit.get("expansion", 8)
    name = label(architecture, unit.get("regime", ""), expansion)
    return name + (", specimen" if unit.get("data") == "specimen" else "")
