"""``python -m tests.bench [--full] [--profile NAME]``: see ``make bench``."""

import argparse
import sys
from dataclasses import asdict, dataclass

import torch

from helpers import paths
from helpers.devices import find_device
from helpers.errors import InputError
from tests.bench import (
    data,
    end_to_end,
    language_model,
    memory,
    ours,
    quality,
    specimen,
    speed,
    table,
    versions,
)
from tests.bench.store import Store
from tests.bench.versions import ARCHITECTURES, Task, Version


@dataclass(frozen=True)
class Mode:
    """How much is measured."""

    name: str
    rounds: dict[int, int]  # by expansion
    run: dict[int, int]  # activations of L1's whole run, by expansion
    all_settings: bool  # also at the sizes after the first, and in quality
    quality: quality.Size
    rates: int  # learning rates tried at most
    specimen: tuple[int, int]  # steps and tokens in a step
    d_in: int = 512
    k: int = 32
    batch: int = 4096


DEFAULT = Mode("bench", {8: 4, 32: 3}, {8: 3_000_000}, False,
               quality.DEFAULT, 4, (60, 2048))  # fmt: skip
FULL = Mode("bench-full", {8: 11, 32: 7}, {8: 3_000_000, 32: 3_000_000},
            True, quality.FULL, 7, (750, 4096))  # fmt: skip


class Bench:
    """All sections of a run, one unit of the store after the other."""

    def __init__(self, mode: Mode, profile: str, store: Store,
                 known: list[Version]):  # fmt: skip
        self.mode, self.profile, self.store = mode, profile, store
        self.known, self.device = known, str(find_device())

    def run(self) -> dict:
        """Measure what is not measured yet; the results."""
        fastest: dict[str, list[Version]] = {}
        for expansion in self.mode.rounds:
            for architecture, regime in rows():
                self._speed(architecture, regime, expansion, fastest)
        if data.has_specimen(self.profile):
            self._on_specimen("topk", fastest)
            self._on_specimen("batchtopk", fastest)
            self._end_to_end()
        for expansion in self.mode.run:
            self._whole_run(expansion, fastest)
        for expansion in self.mode.rounds:
            self._memory(expansion, fastest)
        for architecture in ARCHITECTURES:
            self._quality(architecture)
        if data.has_specimen(self.profile):
            self._loss_recovered()
        for batch in (8, 64):
            fields = {"section": "language_model", "batch": batch}
            self.store.unit(
                f"language model, batch {batch}", fields,
                lambda: language_model.rows(batch),  # noqa: B023
            )  # fmt: skip
        return self.store.finish()

    def task(self, architecture: str, expansion: int) -> Task:
        """What is timed: steps at a rate that changes nothing."""
        mode = self.mode
        penalty = mode.k if architecture == "jumprelu" else 2.0
        return Task(
            architecture, mode.d_in, mode.d_in * expansion, k=mode.k,
            batch=mode.batch, coefficient=float(penalty),
            device=self.device,
        )  # fmt: skip

    def _speed(self, architecture, regime, expansion, fastest) -> None:
        """One row; at the first size it finds each library's best setting."""
        first = expansion == min(self.mode.rounds)
        chosen = self.known
        if not first and not self.mode.all_settings:
            chosen = fastest[architecture]
        name = table.label(architecture, regime, expansion)
        fields = self._fields(architecture, regime, expansion)
        found = self.store.unit(
            f"speed, {name}", fields,
            lambda: speed.row(
                self.task(architecture, expansion), chosen,
                self.mode.rounds[expansion], regime,
            ),
        )  # fmt: skip
        if first and regime != "sparse":
            fastest[architecture] = best_settings(self.known, found)

    def _on_specimen(self, architecture, fastest) -> None:
        expansion = min(self.mode.rounds)
        fields = self._fields(architecture, "", expansion)
        fields["data"] = "specimen"

        def work():
            task = self.task(architecture, expansion)
            batches, _ = data.specimen(self.profile, task.batch, 4)
            task = Task(**(vars(task) | {"d_in": batches[0].shape[1]}))
            rounds = self.mode.rounds[expansion]
            return speed.row(task, fastest[architecture], rounds, "", batches)

        name = table.label(architecture, "", expansion)
        self.store.unit(f"speed, {name}, specimen", fields, work)

    def _end_to_end(self) -> None:
        expansion = min(self.mode.rounds)
        task = self.task("topk", expansion)
        fields = {"section": "end_to_end", "batch": task.batch,
                  "expansion": expansion}  # fmt: skip
        self.store.unit(
            "harvest and training", fields,
            lambda: end_to_end.rows(self.profile, self.known[0], task),
        )  # fmt: skip

    def _whole_run(self, expansion, fastest) -> None:
        native, *_ = (v for v in self.known if v.ours)
        peers = [v for v in fastest["standard"] if not v.ours]
        activations = self.mode.run[expansion]
        fields = self._fields("standard", "run", expansion)
        self.store.unit(
            f"speed, {table.label('standard', 'run', expansion)}",
            fields | {"activations": activations},
            lambda: speed.whole_run(
                self.task("standard", expansion), native, peers, activations
            ),
        )

    def _memory(self, expansion, fastest) -> None:
        tasks = [
            (version, self.task(architecture, expansion))
            for architecture in ARCHITECTURES
            for version in fastest[architecture]
        ]

        def work():
            found = memory.measure([(v.name, task) for v, task in tasks])
            return [
                {"architecture": task.architecture, "library": v.library,
                 "setting": v.setting, "ours": v.ours, **row}
                for (v, task), row in zip(tasks, found, strict=True)
            ]  # fmt: skip

        fields = {"section": "memory", "expansion": expansion}
        self.store.unit(f"peak memory, {expansion}x", fields, work)

    def _quality(self, architecture) -> None:
        size = self.mode.quality
        task = size.task(architecture, self.device)
        chosen = versions.takes(self._for_quality(), architecture)

        def work():
            given = [
                quality.material(size, seed, self.device)
                for seed in range(size.seeds)
            ]
            return [
                quality.compare(version, task, given, self.mode.rates)
                for version in chosen
            ]

        fields = {"section": "quality", "architecture": architecture}
        label = table.label(architecture, "", size.expansion)
        self.store.unit(f"quality, {label}", fields | asdict(size), work)

    def _loss_recovered(self) -> None:
        steps, batch = self.mode.specimen
        fields = {"section": "specimen", "activations": steps * batch}
        chosen = versions.takes(self._for_quality(), "topk")
        self.store.unit(
            "loss recovered on the specimen", fields,
            lambda: specimen.compare(self.profile, chosen, steps, batch),
        )  # fmt: skip

    def _for_quality(self) -> list[Version]:
        """Our fastest version; peers under autocast, their fast way."""
        wanted = {self.known[0].setting, "autocast"}
        if self.mode.all_settings:
            wanted.add("default")
        return [v for v in self.known if v.setting in wanted]

    def _fields(self, architecture, regime, expansion) -> dict:
        return {"section": "speed", "architecture": architecture,
                "regime": regime, "expansion": expansion,
                "data": "synthetic", "batch": self.mode.batch}  # fmt: skip


def rows() -> list[tuple[str, str]]:
    """Architectures and regimes that are timed."""
    found = [(name, "") for name in ARCHITECTURES if name != "standard"]
    return [*found, ("standard", "dense"), ("standard", "sparse")]


def best_settings(known: list[Version], found: list[dict]) -> list[Version]:
    """Ours, and the fastest setting of each library in a speed row."""
    times = {
        (row["library"], row["setting"]): min(filter(None, row["seconds"]))
        for row in found
        if any(row["seconds"])
    }
    chosen = []
    for library in dict.fromkeys(v.library for v in known):
        group = [
            v for v in known
            if v.library == library and (library, v.setting) in times
        ]  # fmt: skip
        group.sort(key=lambda v: times[v.library, v.setting])
        chosen += group if group and group[0].ours else group[:1]
    return chosen


def main(arguments: list[str]) -> None:
    """Measure and print the tables. InputError for a missing peer."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--profile", default="laptop")
    given = parser.parse_args(arguments)
    mode = FULL if given.full else DEFAULT
    known = versions.load_all()
    if ours.backend(ours.NATIVE) != "native":
        print("no C++ compiler was found: our native kernels are left out")
        known = [v for v in known if v.setting != ours.NATIVE]
    settings = asdict(mode) | {"profile": given.profile}
    part = paths.ROOT / "_build" / "bench" / f"{mode.name}.json"
    store = Store(paths.results(mode.name), part, settings)
    torch.manual_seed(0)
    results = Bench(mode, given.profile, store, known).run()
    print("\n" + table.text(results))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"bench: {error}")
