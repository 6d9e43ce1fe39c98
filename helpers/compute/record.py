"""Keep what a finished run took, for chapter 21.

``python -m helpers.compute.record --profile laptop`` adds the profile to
``book/results/costs.json``. Times and memory differ from run to run, so they
are no part of the chapters, and this file changes only when it is asked to.
"""

import argparse
import json
import math
import sys
from datetime import datetime
from pathlib import Path

from helpers import artifacts, paths
from helpers.compute.measured import RECORD, recorded
from helpers.errors import InputError

# Trained alone, one after the other; others share a pass and its time.
ALONE = {"topk-8x": "TopK", "l1-8x": "dense"}
MODEL = "A"


def collect(profile: str) -> dict:
    """Device, seconds and memory of a run's chapters, its language model and
    the autoencoders that were trained alone. InputError without a run."""
    chapters = {
        file.name.removesuffix(".run.json"): json.loads(file.read_text())
        for file in sorted(paths.chapters(profile).glob("*.run.json"))
    }
    if "04-sae-training" not in chapters:
        raise InputError(
            f"profile {profile} has not run; `make execute "
            f"PROFILE={profile}` does it, then record again"
        )
    about = chapters["04-sae-training"]
    names = "device", "threads", "cores", "system", "torch", "finished"
    return {name: about[name] for name in names} | {
        "chapters": {
            name: {"seconds": _spent(run),
                   "peak_memory_mib": run["peak_memory_mib"]}
            for name, run in chapters.items()
        },
        "language_model": _model(profile),
        "saes": {name: _sae(profile, name) for name in ALONE},
        "disk_mib": _size(paths.artifacts(profile)),
    }  # fmt: skip


def _spent(run: dict) -> float:
    """Seconds of a chapter: its own, or those of its stages where these were
    made by an earlier run. Stages may lie within one another."""
    spent, end = 0.0, -math.inf
    spans = sorted(
        (stop - stage["seconds"], stop)
        for stage in run["stages"].values()
        for stop in [datetime.fromisoformat(stage["at"]).timestamp()]
    )
    for start, stop in spans:
        spent += max(stop - max(start, end), 0.0)
        end = max(end, stop)
    return round(max(spent, run["seconds"]), 1)


def _model(profile: str) -> dict:
    path = artifacts.require(paths.language_model(profile, MODEL))
    manifest = artifacts.read_manifest(path)
    shape = json.loads((path / "config.json").read_text())["architecture"]
    tokens = manifest["parameters"]["train_tokens"]
    return {**shape, "train_tokens": tokens, **_made(manifest)}


def _sae(profile: str, name: str) -> dict:
    path = artifacts.require(paths.sae(profile, name))
    manifest = artifacts.read_manifest(path)
    shape = json.loads((path / "cfg.json").read_text())
    how = manifest["parameters"]
    weights = (path / "sae_weights.safetensors").stat().st_size
    return {
        "kind": ALONE[name], "d_in": shape["d_in"], "d_sae": shape["d_sae"],
        "k": how.get("k"), "batch": how["batch"],
        "activations": how["activations"], "disk_mib": weights / 2**20,
        **_made(manifest),
    }  # fmt: skip


def _made(manifest: dict) -> dict:
    made = manifest["made"]
    return {name: made[name] for name in ("seconds", "peak_memory_mib")}


def _size(folder: Path) -> float:
    files = (file for file in folder.rglob("*") if file.is_file())
    return round(sum(file.stat().st_size for file in files) / 2**20)


def main(words: list[str] | None = None) -> int:
    """Command line; the exit status (2 for bad input)."""
    parser = argparse.ArgumentParser(prog="helpers.compute.record")
    parser.add_argument("--profile", default="laptop")
    profile = parser.parse_args(words).profile
    try:
        found = collect(profile)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    file = paths.results(RECORD)
    artifacts.write_json(file, recorded() | {profile: found})
    print(f"recorded what profile {profile} took in {file.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
