"""The benchmark: its adapters, its arithmetic, its resuming; no timing."""

import importlib
import json
import math
import tomllib
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers import bench_results, paths, sae, train
from helpers.charts.bench import speed_dots
from helpers.errors import InputError
from helpers.train import Settings
from tests.bench import __main__ as command
from tests.bench import (
    data,
    end_to_end,
    memory,
    ours,
    quality,
    speed,
    table,
    versions,
)
from tests.bench.store import Store
from tests.bench.versions import ARCHITECTURES, Task, Version
from tests.test_activations import tiny_model, tokens

TINY = {"d_in": 16, "d_sae": 64, "k": 4, "batch": 32, "steps": 40}


def tiny(architecture, **more):
    given = {"coefficient": 4.0 if architecture == "jumprelu" else 0.5}
    return Task(architecture, **(TINY | given | more))


def batches(count, size=32, seed=0):
    source = data.Directions(16, 32, 4, seed)
    return source, data.bank(source, size, count)


def named(name):
    """All versions of one module; skipped where its peer is missing."""
    if name != "ours":
        pytest.importorskip(versions.PEERS[name])
    return importlib.import_module(f"tests.bench.{name}").VERSIONS


ADAPTERS = [
    (module, place, architecture)
    for module, places in {
        "ours": (0, 1), "sae_lens_peer": (0, 1),
        "dictionary_learning_peer": (0, 1), "sparsify_peer": (0, 1),
    }.items()
    for place in places
    for architecture in ARCHITECTURES
    if module != "sparsify_peer" or architecture == "topk"
]  # fmt: skip


@pytest.mark.parametrize(("module", "place", "architecture"), ADAPTERS)
def test_every_version_learns_what_it_is_given(module, place, architecture):
    version = named(module)[place]
    task = tiny(architecture, lr=1e-2, dead_after=1000)
    _, given = batches(task.steps + 2)
    start = quality.fvu_and_l0(version.make(task), given[-2:])
    trainer = quality.trained(version, task, given[: task.steps])
    found = quality.fvu_and_l0(trainer, given[-2:])
    assert found["fvu"] < start["fvu"] and found["fvu"] < 1
    rows = trainer.directions()
    assert rows.shape == (task.d_sae, task.d_in)
    codes = trainer.codes(given[-1])
    assert codes.shape == (task.batch, task.d_sae)
    assert trainer.rebuild(codes).shape == given[-1].shape
    if "topk" in architecture:
        assert found["l0"] <= task.k
    trainer.close()


def test_our_adapter_runs_the_loop_itself():
    task = tiny("topk", lr=1e-3, dead_after=500)
    _, given = batches(task.steps)
    adapter = ours.VERSIONS[1].make(task)
    for x in given:
        adapter.step(x)
    adapter.close()
    model = sae.build(
        "topk", 16, "bench", expansion=4, k=4, l1=0.0, seed=0
    )  # fmt: skip
    how = Settings(activations=40 * 32, batch=32, lr=1e-3, dead_after=500)
    with ours.chosen(ours.PLAIN):
        train.train(model, iter(given), how)
    for name, value in model.state_dict().items():
        assert torch.equal(value, adapter.model.state_dict()[name]), name


def test_our_adapter_tells_what_goes_wrong():
    adapter = ours.VERSIONS[1].make(tiny("topk"))
    with pytest.raises(RuntimeError, match="size"):
        adapter.step(torch.zeros(32, 7))


@pytest.mark.parametrize("module", ["ours", *versions.PEERS])
def test_sparse_bias_makes_k_latents_fire(module):
    version = named(module)[0]
    if "standard" not in version.architectures:
        pytest.skip("it has no L1")
    _, (x,) = batches(1, 256)
    trainer = version.make(tiny("standard"))
    trainer.set_bias(speed.sparse_bias(trainer, x, 4))
    assert (trainer.codes(x) > 0).sum(1).float().mean() == pytest.approx(
        4, rel=0.02
    )


class Fake:
    """A trainer that only remembers its batches."""

    def __init__(self, seen):
        self.seen = seen

    def step(self, x):
        self.seen.append(x)

    def close(self):
        pass


def fakes(cost, monkeypatch, broken=()):
    """Versions whose steps are said to take ``cost`` seconds."""
    seen = {name: [] for name in cost}
    now = {"who": None}

    def make(name):
        def start(task):
            if name in broken:
                raise RuntimeError("no such thing\nand more")
            return Fake(seen[name])

        return Version(name, "default", start, ours=name == "ours")

    def timed(work, *given):
        before = {name: len(found) for name, found in seen.items()}
        work(*given)
        for name, found in seen.items():
            if len(found) > before[name]:
                now["who"] = name
                return cost[name] * (len(found) - before[name])
        return 0.5

    monkeypatch.setattr(speed, "timed", timed)
    return seen, [make(name) for name in cost]


def test_equal_batches_go_to_every_version(monkeypatch):
    seen, known = fakes({"ours": 0.01, "a": 1.0, "b": 2.0}, monkeypatch)
    monkeypatch.setattr(speed, "SHORT", 0.0)
    _, given = batches(3)
    speed.row(tiny("topk"), known, 4, "", given)
    for other in ("a", "b"):
        pairs = zip(seen["ours"], seen[other], strict=True)
        assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
    assert any(not torch.equal(x, seen["a"][0]) for x in seen["a"])


def test_a_short_step_is_repeated_and_a_slow_one_runs_once(monkeypatch):
    seen, known = fakes({"ours": 0.05, "a": 1.0, "slow": 5.0}, monkeypatch)
    _, given = batches(2)
    found = speed.row(tiny("topk"), known, 3, "", given)
    seconds = {row["library"]: row["seconds"] for row in found}
    assert seconds["ours"] == pytest.approx([0.05] * 3)
    assert len(seen["ours"]) == 2 + 3 * 5
    assert seconds["slow"] == [5.0, None, None]
    assert list(seconds) == ["ours", "a", "slow", "floor"]


def test_a_version_that_fails_is_a_row_with_its_reason(monkeypatch):
    _, known = fakes({"ours": 0.1, "a": 1.0, "b": 1.0}, monkeypatch, {"b"})
    found = speed.row(tiny("topk"), known, 1, "", batches(1)[1])
    (row,) = [row for row in found if row["library"] == "b"]
    assert row["error"] == "RuntimeError: no such thing"
    assert row["seconds"] == []


@pytest.mark.parametrize(
    ("architecture", "regime", "products"),
    [("topk", "", 1), ("standard", "dense", 5), ("standard", "sparse", 1),
     ("jumprelu", "", 5), ("gated", "", 7)],
)  # fmt: skip
def test_the_floor_has_the_products_of_a_step(architecture, regime, products):
    from torch.utils.flop_counter import FlopCounterMode

    work = speed.dense_floor(tiny(architecture), regime)
    with FlopCounterMode(display=False) as counter:
        work(torch.randn(32, 16))
    assert counter.get_total_flops() == products * 2 * 32 * 16 * 64


def test_directions_are_sparse_and_of_unit_scale():
    source, (x,) = batches(1, 4096)
    assert x.norm(dim=1).mean() == pytest.approx(4.0, rel=0.05)
    assert source.chances.sum() == pytest.approx(4, rel=1e-4)
    again = data.Directions(16, 32, 4, 0).batch(4096)
    assert torch.equal(again, x)



@pytest.mark.parametrize(("best", "tried"), [(3, 3), (5, 5), (0, 5)])
def test_the_rate_is_searched_outwards(best, tried):
    seen = []

    def score(lr):
        seen.append(lr)
        return abs(math.log(lr / quality.GRID[best]))

    assert quality.search(score, 7) == pytest.approx(quality.GRID[best])
    assert len(seen) == tried


def frontier(version, task, given):
    """L0 falls and FVU rises with the penalty, by known powers."""
    l0 = 50 * task.coefficient**-0.7
    return {"fvu": l0**-1.5, "l0": l0, "mmcs": 0.5, "mcc": 0.5}


def test_fvu_is_read_off_at_equal_l0(monkeypatch):
    monkeypatch.setattr(quality, "run", frontier)
    found = quality.at_equal_l0(None, tiny("standard"), None)
    assert found["fvu"] == pytest.approx(4**-1.5, rel=1e-6)
    assert found["l0"] == pytest.approx(4, rel=0.1)


def test_peak_memory_sees_an_allocation():
    class Greedy(Fake):
        def __init__(self, task):
            self.held = torch.ones(64, 2**18)

        def step(self, x):
            pass

    found = memory.peak(Version("greedy", "default", Greedy), tiny("topk"))
    assert 60 < found < 80


def store(tmp_path, **settings):
    return Store(tmp_path / "bench.json", tmp_path / "part.json", settings)


def test_a_stopped_run_goes_on(tmp_path):
    first = store(tmp_path, rounds=1)
    first.unit("a", {"section": "speed"}, lambda: [1])
    with pytest.raises(KeyboardInterrupt):
        first.unit("b", {"section": "speed"}, _interrupted)
    again = store(tmp_path, rounds=1)
    assert again.unit("a", {}, _interrupted) == [1]
    assert again.unit("b", {"section": "speed"}, lambda: [2]) == [2]
    assert not (tmp_path / "bench.json").exists()
    again.finish()
    written = json.loads((tmp_path / "bench.json").read_text())
    assert [unit["rows"] for unit in written["units"]] == [[1], [2]]
    assert written["about"]["packages"]["torch"] == torch.__version__
    assert not (tmp_path / "part.json").exists()


def test_other_settings_start_anew(tmp_path):
    store(tmp_path, rounds=1).unit("a", {}, lambda: [1])
    assert store(tmp_path, rounds=2).unit("a", {}, lambda: [2]) == [2]


def _interrupted():
    raise KeyboardInterrupt


def test_a_missing_peer_is_one_sentence(monkeypatch):
    monkeypatch.setattr(versions, "PEERS", {"sae_lens_peer": "no_such_lib"})
    with pytest.raises(InputError, match="no_such_lib cannot be imported"):
        versions.load_peers()


def test_the_whole_benchmark_at_a_tiny_size(tmp_path, monkeypatch):
    known = [*ours.VERSIONS, *named("sae_lens_peer")[:2]]
    mode = command.Mode(
        "bench", {4: 2, 8: 1}, {4: 32 * 40}, False,
        quality.Size(16, 4, 4, 32, 20, 2), 3, (4, 32), 16, 4, 32,
    )  # fmt: skip
    monkeypatch.setattr(speed, "SHORT", 0.0)
    monkeypatch.setattr(
        memory, "measure", lambda tasks: [{"mib": 1.0} for _ in tasks]
    )
    rows = [{"version": "ours", "tokens_per_second": 1.0}]
    monkeypatch.setattr(command.language_model, "rows", lambda batch: rows)
    results = command.Bench(mode, "none", store(tmp_path), known).run()
    shown = table.text(results)
    assert "did not run" not in shown, shown
    assert len(bench_results.speed_table(results)) == 2 * 7 + 1
    assert len(bench_results.quality_table(results)) == 6
    at_8x = [u for u in bench_results.units(results, "speed")
             if u["expansion"] == 8]  # fmt: skip
    assert all(len(unit["rows"]) == 4 for unit in at_8x)  # SAELens' best only


def timings(library, setting, *seconds, **more):
    row = {"library": library, "setting": setting, "seconds": list(seconds)}
    return row | {"ours": library == "ours", "note": ""} | more


@pytest.fixture
def results():
    """Made-up results: a row of speed, a whole run, memory and quality."""
    speeds = {"section": "speed", "architecture": "topk", "regime": "",
              "expansion": 8, "data": "synthetic", "batch": 100}  # fmt: skip
    run = speeds | {"architecture": "standard", "regime": "run"}
    scores = {"l0": [4, 4], "mmcs": [0.5, 0.7], "mcc": [0.4, 0.4], "lr": 1e-3}
    mine = timings("ours", "native kernels", 1.0, 2.0, 1.0)
    return {
        "about": {},
        "units": [
            speeds | {"rows": [
                mine,
                timings("ours", "plain PyTorch", 2.0, 2.0, 4.0),
                timings("a", "default", 8.0, None, None),
                timings("a", "autocast", 4.0, 6.0, 5.0),
                timings("b", "default", error="RuntimeError: no"),
                timings("floor", "dense products", 0.5, 0.5, 0.5),
            ]},
            run | {"rows": [
                timings("ours", "native kernels", 3.0, 1.0),
                timings("a", "autocast", 6.0, 6.0),
            ]},
            {"section": "memory", "expansion": 8, "rows": [
                mine | {"architecture": "topk", "mib": 10.0},
                timings("a", "autocast", architecture="topk", mib=30.0),
            ]},
            {"section": "quality", "architecture": "topk", "expansion": 8,
             "steps": 5, "batch": 100, "rows": [
                mine | scores | {"fvu": [0.1, 0.2]},
                timings("a", "autocast") | scores | {"fvu": [0.2, 0.2]},
                timings("b", "autocast") | scores
                | {"fvu": [0.3, 0.3], "mcc": [0.6, 0.6]},
            ]},
        ],
    }  # fmt: skip


def test_speed_table_compares_with_the_best_peer(results):
    topk, run = bench_results.speed_table(results).itertuples()
    assert (topk.what, run.what) == ("TopK 8x", "L1 8x, whole run")
    assert (topk.ours, topk.plain, topk.peer) == (100, 50, 20)
    assert topk.peer_name == "a, autocast"
    assert (topk.ratio, topk.ratio_low, topk.ratio_high) == (4, 3, 5)
    assert topk.plain_ratio == 2.5
    assert (topk.floor, topk.share_of_floor) == (200, 0.5)
    assert (topk.memory, topk.peer_memory) == (10, 30)
    assert run.ratio == 12 / 4 and math.isnan(run.memory)


def test_quality_table_compares_at_equal_tokens(results):
    (row,) = bench_results.quality_table(results).itertuples()
    assert row.fvu == pytest.approx(0.15) and row.peer_fvu == 0.2
    assert row.fvu_ratio == pytest.approx(0.75)
    assert (row.fvu_low, row.fvu_high) == (0.5, 1.0)
    assert row.mmcs == pytest.approx(0.6)
    assert (row.mcc, row.peer_mcc) == (0.4, pytest.approx(0.6))
    assert (row.tokens, row.peer_name) == (500, "a, autocast")


def test_harvest_and_training_against_the_slower_alone(results):
    seconds = {"harvest alone": [1.0, 1.0, 1.0],
               "training alone": [2.0, 3.0, 0.5],
               "together": [2.5, 4.0, 1.0]}  # fmt: skip
    results["units"].append(
        {"section": "end_to_end", "batch": 100,
         "rows": [{"what": k, "seconds": v} for k, v in seconds.items()]}
    )  # fmt: skip
    found = bench_results.end_to_end_table(results).set_index("what")
    assert list(found.loc["together"]) == [40, 0.8, 0.75, 1.0]
    assert "80%" in table.end_to_end(results)


def test_harvest_and_training_of_a_small_model(monkeypatch):
    made = tiny_model(), SimpleNamespace(train=tokens())
    monkeypatch.setattr(data, "load", lambda profile: made)
    task = tiny("topk", d_in=32, steps=1000)
    rows = end_to_end.rows("any", ours.VERSIONS[1], task)
    assert [row["what"] for row in rows][:2] == list(bench_results.ALONE)
    assert {len(row["seconds"]) for row in rows} == {end_to_end.ROUNDS}
    assert min(min(row["seconds"]) for row in rows) > 0


def test_failures_keep_their_reason(results):
    (row,) = bench_results.failures(results).itertuples()
    assert (row.section, row.what) == ("speed", "TopK 8x b, default")
    assert row.reason == "RuntimeError: no"


def test_without_results_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "BOOK", tmp_path)
    with pytest.raises(InputError, match="run `make bench`"):
        bench_results.load()


def test_speed_chart_has_a_dot_for_each_version(results):
    speeds = bench_results.speeds(results)
    chart = speed_dots(speeds).to_dict()
    (rows,) = chart["datasets"].values()
    shown = {(row["what"], row["version"]) for row in rows}
    assert ("TopK 8x", "ours, native kernels") in shown
    assert ("TopK 8x", "dense products alone") in shown
    assert ("L1 8x, whole run", "ours, plain PyTorch") not in shown
    lines, ticks, dots = chart["layer"]
    assert dots["encoding"]["x"]["scale"]["type"] == "log"
    assert dots["encoding"]["y"]["sort"] == ["TopK 8x", "L1 8x, whole run"]
    assert ticks["mark"]["type"] == "tick"


def test_the_lock_of_the_peers():
    lines = (paths.ROOT / "requirements-bench.lock").read_text().split()
    pinned = dict(line.split("==") for line in lines)
    shared = (paths.ROOT / "requirements.lock").read_text().split()
    assert not {line.split("==")[0] for line in shared} & set(pinned)
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())
    for line in project["project"]["optional-dependencies"]["bench"]:
        wanted = Requirement(line)
        version = pinned[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version)
