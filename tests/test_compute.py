"""Costs by arithmetic: hand-worked cases, published numbers, the poster's
ledger, and what results files say or do not say."""

import json
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers import artifacts, bench_results, compute, paths
from helpers.compute import costs, measured, record
from helpers.errors import InputError

SHAPES = compute.shapes()


def test_a_dense_step_worked_by_hand_and_counted_by_torch():
    assert costs.dense_flops(2, 3) == 5 * (2 * 2 * 3)
    n, m, batch = 6, 20, 7
    x, encoder = torch.randn(batch, n), torch.randn(n, m, requires_grad=True)
    decoder = torch.randn(m, n, requires_grad=True)
    with FlopCounterMode(display=False) as counted:
        ((x @ encoder).relu() @ decoder - x).square().sum().backward()
    assert counted.get_total_flops() == batch * costs.dense_flops(n, m)


def test_topk_by_hand_and_as_chapter_04_counts():
    assert costs.topk_flops(2, 3, 1) == 2 * 2 * 3 + 4 * 2 * 2 * 1
    assert costs.topk_flops(5, 9, 9) == costs.dense_flops(5, 9)
    numbers = published("04-sae-training")
    assert costs.topk_flops(512, 4096, 32) * 2e6 == numbers["sae_topk_flops"]
    assert costs.dense_flops(512, 4096) * 1.2e6 == numbers["sae_l1_flops"]
    assert costs.sae_parameters(512, 4096) == numbers["sae_parameters"]


def published(chapter: str) -> dict[str, float]:
    found = json.loads(paths.results("laptop").read_text())
    numbers = found["chapters"][chapter]["numbers"]
    return {name: number["value"] for name, number in numbers.items()}


# Published: all parameters of the layers, whose normalisations' vectors
# (so many of d_model numbers) are not matrices, and the embedding.
@pytest.mark.parametrize("name, layers, vectors, embedding", [
    ("gemma-2b", 1_981_884_416, 2 * 18 + 1, 524_550_144),
    ("gemma-2-2b", 2_024_517_888, 4 * 26 + 1, 590_118_912),
])  # fmt: skip
def test_parameters_are_those_of_the_papers(name, layers, vectors, embedding):
    shape = SHAPES[name]
    matrices = shape.layers * costs.layer_parameters(shape)
    assert matrices + vectors * shape.d_model == layers
    assert costs.model_parameters(shape) == matrices + embedding


def test_parameters_of_gpt2_are_those_published():
    """124,439,808 with positions, biases and normalisations."""
    layer = 4 * 768 + (4 * 768) + (3072 + 768)  # two norms, biases of each
    vectors = 12 * layer + 2 * 768 + 1024 * 768
    assert costs.model_parameters(SHAPES["gpt2"]) == 124_439_808 - vectors


def test_forward_flops_are_those_of_a_model_that_runs():
    """Two layers of our own transformer, as torch counts their products."""
    from helpers.language_model import transformer

    ours, two = SHAPES["specimen"], SHAPES["specimen"]._replace(layers=2)
    weights = transformer.initial_weights(
        transformer.Architecture(2, 128, 4, 512, 128, ours.vocab), 0
    )
    rows = torch.zeros(3, 128, dtype=torch.long)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        transformer.final_residual(weights, rows, torch.float32)
    used = costs.forward_parameters(two, 2)
    attention = costs.forward_flops(used, 2, 128, 128) - 2 * used
    # torch multiplies with the future too, which the mask then takes away
    whole = rows.numel() * (2 * used + 2 * attention)
    assert counted.get_total_flops() == whole


def test_stopping_at_the_neurons_leaves_out_their_output():
    shape = SHAPES["specimen"]
    whole = costs.forward_parameters(shape, 1)
    assert whole - costs.forward_parameters(shape, 1, post=True) == 128 * 512
    assert costs.training_flops(10) == 30


def plan(**other) -> costs.Plan:
    fields = dict(
        tokens=3600, d_in=2, d_sae=4, saes=3, cards=1, codes=2,
        sae_flops=10, model_flops=5, sae_rate=2, model_rate=1, model_bytes=7,
    )  # fmt: skip
    return costs.Plan(**{**fields, **other})


def test_a_bill_worked_by_hand():
    bill, weights = compute.bill(plan()), 2 * 2 * 4 + 2 + 4
    assert bill["hours"] == {"language model": 5, "autoencoders": 15}
    assert bill["memory"] == {
        "language model": 7, "autoencoders": 3 * 14 * weights,
        "shuffle buffer": 3 * 2 * 2 * 65_536 * 1.5,
        "one step": 4 * weights + 4096 * (2 * 2 * 4 + 20 * 2),
    }  # fmt: skip
    assert bill["disk"] == {
        "activations": 3 * 2 * 3600 * 2, "autoencoders": 3 * 4 * weights,
        "checkpoints": 3 * 2 * 12 * weights,
    }  # fmt: skip


def test_cards_divide_hours_and_batches_and_nothing_else():
    one, four = compute.bill(plan()), compute.bill(plan(cards=4))
    assert sum(four["hours"].values()) == sum(one["hours"].values()) / 4
    assert four["disk"] == one["disk"]
    apart = {k for k in one["memory"] if one["memory"][k] != four["memory"][k]}
    assert apart == {"one step"}


# --- the poster ---------------------------------------------------------


def test_the_posters_ledger():
    """Six layers, 150 M tokens, d_in 2048, 3 A100 for 36 hours, > 3 TB."""
    ledger, said = compute.poster_ledger(), compute.poster()
    assert ledger["said"].tolist() == [36, 38.5, 3]
    parts = compute.bill(compute.plan_of("gemma-2b", 1, 1, 3))
    assert parts["disk"]["activations"] == 150e6 * 6 * 2048 * 2 == 3.6864e12
    assert published("04-sae-training")["poster_disk"] == 3.6864
    layer = 2 * 2048**2 + 2 * 2048 * 256 + 3 * 2048 * 16384
    forward = 2 * 6 * layer + 2 * 6 * 128 * 2048
    done = 150e6 * (forward + 6 * 10 * 2048 * 16384)
    assert done == compute.operations(compute.plan_of("gemma-2b", 1, 1))
    used = done / (3 * 36 * 3600 * 312e12)
    assert ledger["ratio"]["hours"] == pytest.approx(used)
    assert 0.004 < used < 0.0042
    assert said["cards"] == 3 and said["source"] == "fatemi2024synthetic"


def test_expansion_that_fills_a_card():
    found = compute.plan_of("gemma-2b", 1, 1, 3)
    wide = compute.expansion_that_fills(found, 38.5e9)
    filled = compute.bill(found._replace(d_sae=wide * found.d_in))
    assert sum(filled["memory"].values()) == pytest.approx(38.5e9)


def test_profiles_are_a_row_each_and_scale_with_their_rates():
    slow = compute.profiles_table({"TopK": 1e12, "dense": 1e12}, 1e12)
    fast = compute.profiles_table({"TopK": 4e12, "dense": 4e12}, 4e12, 2)
    assert (slow["hours"] / fast["hours"]).tolist() == pytest.approx([8] * 5)
    seconds = slow["operations"] / 1e12
    assert slow["hours"].tolist() == pytest.approx((seconds / 3600).tolist())
    with pytest.raises(InputError, match="did you mean 'gemma-2b'"):
        compute.plan_of("gemma2b", 1, 1)
    with pytest.raises(InputError, match="did you mean 'A100 80 GB'"):
        compute.find_card("A100 80")


def test_sources_are_in_the_bibliography():
    from helpers.compute.plans import _content

    known = (paths.BOOK / "references.bib").read_text()
    content = _content()
    rows = [*content["models"].values(), *content["cards"].values()]
    for source in {row["source"] for row in [*rows, content["poster"]]}:
        assert source == "chapter 03" or f"{{{source}," in known, source


# --- results files --------------------------------------------------------


def results_file(seconds: float = 2.0, gpu: str | None = None) -> dict:
    """Steps of 4,096 at 8x and 32x, twice, with memory; one peer."""
    units = []
    for name, regime in {"topk": "", "standard": "dense"}.items():
        for expansion in (8, 32):
            row = {"library": "ours", "ours": True, "note": ""}
            rows = [
                {**row, "setting": setting, "seconds": [times * seconds] * 3}
                for setting, times in zip(measured.SETTINGS, (1, 3),
                                          strict=True)
            ] + [{**row, "library": "peer", "ours": False, "setting": "x",
                  "seconds": [seconds / 9]}]  # fmt: skip
            units.append({
                "section": "speed", "architecture": name, "regime": regime,
                "expansion": expansion, "data": "synthetic", "batch": 4096,
                "rows": rows[1:] if gpu else rows,
            })  # fmt: skip
    row = {"library": "ours", "setting": "native kernels", "ours": True}
    units.append({"section": "memory", "expansion": 8, "rows": [
        {**row, "architecture": "topk", "mib": 100.0},
        {**row, "architecture": "gated", "mib": 1.0},
        {**row, "architecture": "standard", "error": "killed"},
    ]})  # fmt: skip
    about = {"gpu": gpu, "processor": "A processor", "threads": 2,
             "date": "2026-11-22",
             "settings": {"d_in": 512, "k": 32, "batch": 4096}}  # fmt: skip
    return {"about": about, "units": units}


RUN = {
    "language_model": {
        "layers": 1, "d_model": 128, "d_mlp": 512, "heads": 4,
        "vocab_size": 4096, "context": 128, "train_tokens": 1000,
        "seconds": 2.0,
    },
    "saes": {"topk-8x": {
        "kind": "TopK", "d_in": 512, "d_sae": 4096, "k": 32, "batch": 2048,
        "activations": 4096, "seconds": 5.0, "peak_memory_mib": 400.0,
        "disk_mib": 16.0,
    }},
}  # fmt: skip


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write a results file; only those written are there."""
    monkeypatch.setattr(paths, "BOOK", tmp_path)
    (tmp_path / "results").mkdir()

    def write(name: str, content: dict) -> dict:
        paths.results(name).write_text(json.dumps(content))
        return content

    return write


def test_rates_are_operations_over_measured_seconds(written):
    written("bench", results_file(seconds=2.0))
    (device,) = compute.devices(RUN)
    assert device.name == "A processor, 2 threads"
    topk = costs.topk_flops(512, 4096, 32) * 4096 / 2.0
    dense = costs.dense_flops(512, 4096) * 4096 / 2.0
    assert device.sae == pytest.approx({"TopK": topk, "dense": dense})
    weights = 4 * 128**2 + 2 * 128 * 512 + 128 * 4096
    whole = 3 * (2 * weights + 2 * 128 * 128) * 1000 / 2.0
    assert device.model == pytest.approx(whole)
    assert compute.missing(device) == "nothing"


def test_harvest_of_the_benchmark_goes_before_the_record(written):
    content = results_file()
    rows = [{"what": what, "seconds": [1.0]} for what in
            (*bench_results.ALONE, "together")]  # fmt: skip
    unit = {"section": "end_to_end", "batch": 4096, "rows": rows}
    written("bench", {**content, "units": [*content["units"], unit]})
    (device,) = compute.devices(RUN)
    forward = 2 * (4 * 128**2 + 128 * 512) + 2 * 128 * 128
    assert device.model == pytest.approx(4096 * forward)
    assert device.model_from == "the benchmark's harvest"


def test_a_card_has_its_own_rates_and_borrows_none(written):
    written("bench", results_file(seconds=2.0))
    written("bench-gpu", results_file(seconds=0.02, gpu="A card"))
    processor, card = compute.devices(RUN)
    assert card.name == "A card" and processor.name != card.name
    # plain PyTorch, three times the seconds of the row that is not there
    share = card.sae["TopK"] / processor.sae["TopK"]
    assert share == pytest.approx(100 / 3)
    assert math.isnan(card.model)
    assert compute.missing(card) == "language model"


def test_units_that_are_missing_are_said(written):
    content = results_file()
    units = [u for u in content["units"] if u.get("architecture") != "topk"]
    written("bench", {**content, "units": units})
    (device,) = compute.devices(None)
    assert compute.missing(device) == "TopK, language model"
    assert list(compute.scaling({**content, "units": units}).index) == ["dense"]
    empty = {**content, "units": []}
    for table in (compute.work, compute.scaling, compute.memory_table,
                  compute.work_table):  # fmt: skip
        assert table(empty).empty
    bills = compute.profiles_table(device.sae, device.model)
    assert bills["hours"].isna().all() and bills["memory"].notna().all()
    assert compute.shown(math.nan, ".1f") == "not measured"
    assert compute.shown(None, ".1f") == "not measured"
    assert compute.shown(2.345, ".1f") == "2.3"
    mixed = 98272.7, 3072, 8.2e-05, "a", True, math.nan
    assert [compute.readable(value) for value in mixed] == [
        "98,300", "3,072", "8.2e-05", "a", True, "not measured",
    ]  # fmt: skip


def test_prediction_over_measurement():
    content = results_file(seconds=1.0)
    scaled = compute.scaling(content).loc["dense"]
    assert scaled["ratio"] == pytest.approx(1 / 4)  # same seconds, 4x the work
    memory = compute.memory_table(content).set_index("kind")
    held = 18 * costs.sae_parameters(512, 4096)
    held += 4096 * (2 * 4096 + 20 * 512)
    assert memory["predicted"]["TopK"] == pytest.approx(held / 2**20)
    assert memory["ratio"]["TopK"] == pytest.approx(held / 2**20 / 100)
    assert math.isnan(memory["ratio"]["dense"])


def test_a_run_beside_its_prediction():
    device = measured.Device("d", "", {"TopK": 1e6, "dense": 1.0}, 1e5, "")
    row = compute.hours_table(RUN, device).loc["topk-8x"]
    forward = 2 * (4 * 128**2 + 128 * 512) + 2 * 128 * 128
    seconds = 4096 * (costs.topk_flops(512, 4096, 32) / 1e6 + forward / 1e5)
    assert row["seconds predicted"] == pytest.approx(seconds)
    assert row["seconds ratio"] == pytest.approx(seconds / 5)
    assert row["disk ratio"] == pytest.approx(4_198_912 * 4 / 2**20 / 16)


def test_the_posters_ledger_beside_a_runs():
    both = compute.ledgers(RUN)
    assert both["poster"]["device hours"] == 108
    assert both["poster"]["activations"] == 900e6
    assert both["poster"]["activations a second"] == pytest.approx(
        published("04-sae-training")["poster_rate"]
    )
    used = both["poster"]["rate"] / 312e12
    assert used == pytest.approx(compute.poster_ledger()["ratio"]["hours"])
    forward = 2 * (4 * 128**2 + 128 * 512) + 2 * 128 * 128
    done = 4096 * (costs.topk_flops(512, 4096, 32) + forward)
    assert both["run"]["operations"] == done
    assert both["run"]["rate"] == pytest.approx(done / 5.0)


def test_the_committed_files_can_be_read():
    device = compute.devices(compute.recorded()["laptop"])[0]
    assert device.name and device.date
    run = compute.recorded()["laptop"]
    known = published("04-sae-training")["sae_parameters"]
    disk = run["saes"]["topk-8x"]["disk_mib"] * 2**20 / 4
    assert disk == pytest.approx(known, rel=1e-3)


# --- recording --------------------------------------------------------------


def test_recording_a_run(tmp_path, monkeypatch, written, capsys):
    monkeypatch.setenv("BOOK_ARTIFACTS", str(tmp_path / "artifacts"))
    assert record.main(["--profile", "mini"]) == 2
    assert "make execute PROFILE=mini" in capsys.readouterr().err
    pretend_run("mini")
    written("costs", {"other": {}})
    assert record.main(["--profile", "mini"]) == 0
    found = compute.recorded()
    assert set(found) == {"mini", "other"}
    mini = found["mini"]
    assert mini["saes"]["l1-8x"]["kind"] == "dense"
    assert mini["saes"]["topk-8x"]["activations"] == 100
    assert mini["language_model"]["train_tokens"] == 50
    # two stages overlap and one stands alone: 10 + 5 + 2 seconds
    assert mini["chapters"]["04-sae-training"]["seconds"] == 17
    row = compute.runs_table({"mini": mini}).loc["mini"]
    assert row["minutes"] == 17 / 60 and row["memory"] == 5 / 1024
    assert compute.runs_table({}).empty


def pretend_run(profile: str) -> None:
    """The artifacts and record that a run leaves, with nothing in them."""
    def model(folder):
        shape = {"layers": 1, "d_model": 8, "d_mlp": 16, "heads": 2,
                 "vocab_size": 30, "context": 16}  # fmt: skip
        artifacts.write_json(folder / "config.json", {"architecture": shape})

    def sae(folder):
        artifacts.write_json(folder / "cfg.json", {"d_in": 16, "d_sae": 128})
        (folder / "sae_weights.safetensors").write_bytes(bytes(1000))

    how = {"batch": 10, "activations": 100, "k": 4}
    artifacts.produce(paths.language_model(profile, "A"), model,
                      parameters={"train_tokens": 50})  # fmt: skip
    for name in record.ALONE:
        artifacts.produce(paths.sae(profile, name), sae,
                          parameters={**how, "name": name})  # fmt: skip
    at = "2026-11-22T13:00:{:02d}+00:00"
    stages = {"a": {"at": at.format(10), "seconds": 10},
              "b": {"at": at.format(15), "seconds": 8},
              "c": {"at": at.format(40), "seconds": 2}}  # fmt: skip
    run = {"device": "cpu", "threads": 2, "cores": 2, "system": "s",
           "torch": "t", "finished": "now", "seconds": 1.0,
           "peak_memory_mib": 5, "stages": stages}  # fmt: skip
    folder = paths.chapters(profile)
    artifacts.write_json(folder / "04-sae-training.run.json", run)
