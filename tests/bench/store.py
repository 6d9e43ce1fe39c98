"""What a benchmark has measured so far; a stopped run goes on from it."""

import datetime
import hashlib
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch

from helpers import artifacts, paths
from helpers.progress import clock

PACKAGES = ("torch", "sae-lens", "dictionary-learning", "eai-sparsify")
FLAGS = re.compile(r"\b(amx_\w+|avx2|avx512f|avx512_bf16|asimd|bf16)\b")
MEASURED = ("helpers/train", "helpers/sae", "helpers/kernels", "tests/bench")


class Store:
    """Units of work by name, each written as soon as it is done.

    ``settings`` say what the run is; with others, other code or other
    packages it starts anew. ``part`` is where the unfinished run is kept.
    """

    def __init__(self, path: Path, part: Path, settings: dict):
        self.path, self.part = Path(path), Path(part)
        self.key = artifacts.hash_of([settings, versions(), code()])
        self.about = {**machine(), "settings": settings}
        self.units: dict[str, dict] = {}
        if self.part.exists():
            kept = json.loads(self.part.read_text())
            if kept["key"] == self.key:
                self.units = dict(kept["units"])
                self.about = kept["about"]

    def unit(self, name: str, fields: dict, work: Callable[[], list]) -> list:
        """The rows of a unit: measured now, unless they are there."""
        if name in self.units:
            print(f"{name}: measured before", flush=True)
            return self.units[name]["rows"]
        load, start = os.getloadavg()[0], time.monotonic()
        rows = work()
        spent = time.monotonic() - start
        self.units[name] = {
            **fields, "rows": rows, "took": round(spent, 1),
            "load": round(load, 2),
        }  # fmt: skip
        units = list(self.units.items())  # JSON's keys are sorted
        kept = {"key": self.key, "about": self.about, "units": units}
        artifacts.write_json(self.part, kept)
        print(f"{name}: {clock(spent)}", flush=True)
        return rows

    def finish(self) -> dict:
        """Write the results; the unfinished run is forgotten."""
        results = {"about": self.about, "units": list(self.units.values())}
        artifacts.write_json(self.path, results)
        self.part.unlink()
        return results


def machine() -> dict:
    """What it runs on, with what, and when."""
    found, flags = platform.processor() or platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        text = info.read_text()
        if model := re.search(r"^model name\s*: (.*)$", text, re.M):
            found = model[1]
        if line := re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.M):
            flags = line[1]
    return {
        "processor": found,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "features": sorted(set(FLAGS.findall(flags))),
        "gpu": torch.cuda.get_device_name() if _gpu() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": versions(),
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def versions() -> dict[str, str]:
    """Installed versions of torch and of the peers."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """The commit that was measured, marked if files were changed since."""
    shown = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=paths.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    return shown.stdout.strip() or "unknown"


def code() -> str:
    """sha256 (hex) of the code that is measured, and of what measures."""
    total = hashlib.sha256()
    for folder in MEASURED:
        for file in sorted((paths.ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".cpp"):
                total.update(file.read_bytes())
    return total.hexdigest()


def _gpu() -> bool:
    return torch.cuda.is_available()
