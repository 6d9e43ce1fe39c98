"""SAEs on models that read more or less: by hand and against recovery."""

import numpy as np
import pandas as pd
import pytest

from helpers import artifacts, metrics, recovery, synthesis
from helpers.errors import InputError
from helpers.metrics import model_length
from tests.test_recovery import LENGTH, frame_of, letters, sparse, table_of


def made(folder, name, **parameters):
    return artifacts.produce(
        folder / name,
        lambda path: (path / "x").write_text(name),
        parameters=parameters,
    )


def test_models_that_differ_in_what_they_read_alone(tmp_path):
    how = {"seed": 0, "d_mlp": 8}
    whole = made(tmp_path, "A", train_tokens=1000, **how)
    short = made(tmp_path, "short", train_tokens=300, **how)
    tiny = made(tmp_path, "tiny", train_tokens=30, **how)
    other = made(tmp_path, "other", train_tokens=40, seed=1, d_mlp=8)
    blank = made(tmp_path, "untrained", control="untrained", seed=0)
    noise = made(tmp_path, "shuffled", control="shuffled", seed=0)
    found = metrics.model_lengths(whole, [short, other, noise, tiny, blank])
    assert list(found) == ["0", "30", "300", "1,000"]
    assert [*found.values()] == [blank, tiny, short, whole]
    recipes = metrics.shorter(whole, [0.3, 0.03])
    assert list(recipes) == ["A-0.3", "A-0.03"]
    assert recipes["A-0.03"] == {"train_tokens": 30, **how}


def test_a_pretrained_model_has_its_control_alone(tmp_path):
    whole = made(tmp_path, "A", center=False, context=8)
    short = made(tmp_path, "short", train_tokens=300)
    blank = made(tmp_path, "untrained", control="untrained", seed=0)
    assert metrics.shorter(whole, [0.1]) == {}
    found = metrics.model_lengths(whole, [short, blank])
    assert found == {"0": blank, "all": whole}


@pytest.fixture
def skills(monkeypatch):
    """Skills of one corpus: a model that has "b", and one that has noise."""
    frame = frame_of(60)
    monkeypatch.setattr(synthesis, "load_corpus", lambda path: frame)
    noise = [sparse(60 * LENGTH, 3, seed) for seed in range(4)]
    knows = noise[0].copy()
    knows[:, 1] = letters(frame) == "b"
    bases = {
        ("0", "neurons", 0): table_of(noise[0]),
        ("0", "features", 0): table_of(noise[1]),
        ("0", "features", 1): table_of(noise[2]),
        ("9", "neurons", 0): table_of(noise[3]),
        ("9", "features", 0): table_of(knows),
        ("9", "features", 1): table_of(knows),
    }
    found = model_length._skills(bases, "corpus", 4, 200, 0)
    return frame, bases, found.assign(corpus="letters")


def test_skills_are_those_of_recovery(skills):
    frame, bases, found = skills
    for key, table in bases.items():
        alone = recovery.recover(
            {"it": table}, frame, min_sets=4, resamples=200, seed=0
        )
        f1, always = alone.scores["f1"], alone.scores["always"]
        mine = found.set_index(["model", "units", "sae"]).loc[[key]]
        assert mine["skill"].iloc[0] == pytest.approx(
            ((f1 - always) / (1 - always)).mean()
        )
        drawn = (alone.drawn["it"] - always.to_numpy()) / (
            1 - always.to_numpy()
        )
        assert mine["skill"].iloc[1:].to_numpy() == pytest.approx(
            drawn.mean(1)
        )
        assert (mine["targets"] == len(alone.scores)).all()


def sweep(fvus, seed=0, sets=30):
    """A sweep of two SAEs with these FVUs, documents in sets of two."""
    random = np.random.default_rng(seed)
    spread = random.uniform(50, 150, 2 * sets)
    frames = [
        pd.DataFrame(
            {
                "name": f"s{place}", "text_class": "prose",
                "document": range(2 * sets),
                "group": np.repeat(np.arange(sets), 2).astype(str),
                "tokens": 10, "predicted": 9, "clean": 18.0, "sae": 20.0,
                "zero": 36.0, "mean": 30.0, "uniform": 90.0,
                "error": fvu * spread * random.uniform(0.9, 1.1, 2 * sets),
                "spread": spread, "fired": 40.0,
            }
        )
        for place, fvu in enumerate(fvus)
    ]  # fmt: skip
    firings = {f"s{place}": np.array([0, 3.0]) for place in range(2)}
    return metrics.Sweep(pd.concat(frames, ignore_index=True), firings)


def test_tables_by_hand(skills):
    sweeps = {"0": sweep([0.2, 0.4]), "9": sweep([0.1, 0.1], seed=1)}
    losses = metrics.length_losses(sweeps)
    assert losses.loc["0", ["clean", "zero", "l0", "live"]].tolist() == [
        2, 4, 4, 1,
    ]  # fmt: skip
    assert losses.loc["0", "score_zero"] == pytest.approx(16 / 18)
    assert losses.loc["0", "why"] == ""
    found = metrics.length_table(sweeps, skills[2])
    rows = found.set_index(["read", "measure", "units"])
    assert len(rows) == 2 + 4
    errors = sweeps["0"].documents.groupby("name")["error"].sum().mean()
    spread = sweeps["0"].documents["spread"].sum() / 2
    row = rows.loc[("0", "fvu", "features")]
    assert row["value"] == pytest.approx(errors / spread)
    assert ((found["low"] < found["value"]) | (found["value"] == 1)).all()
    assert (found["value"] <= found["high"]).all()
    steps = metrics.length_steps(sweeps, skills[2])
    by = steps.set_index(["measure", "units"])
    change = rows["value"].loc["9"] - rows["value"].loc["0"]
    for key, step in by.iterrows():
        assert step["change"] == pytest.approx(change[key])
        assert step["low"] <= step["change"] <= step["high"]
    said = [metrics.length_verdict(steps, *key) for key in by.index]
    assert said[0] == "falls at 1 of 1 steps"
    told = dict(zip(by.index, said, strict=True))
    assert told["letters", "features"] == "rises at 1 of 1 steps"
    assert "by more than its interval" in told["letters", "neurons"]


def test_dimensions_by_hand():
    random = np.random.default_rng(0)
    even = random.random((8000, 4))  # alike in four directions
    assert metrics.dimensions(table_of(even)) == pytest.approx(4, rel=0.01)
    line = np.outer(random.random(8000), [1, 2, 0, 0.5])
    assert metrics.dimensions(table_of(line)) == pytest.approx(1, rel=1e-3)
    two = even * [1, 1, 0, 0]
    assert metrics.dimensions(table_of(two), 3000) == pytest.approx(
        2, rel=0.01
    )


def test_directions_are_counted():
    ends = [(-2, -1), (1, 2), (-1, 1), (3, 4)]
    steps = pd.DataFrame(ends, columns=["low", "high"])
    steps = steps.assign(measure="fvu", units="features")
    said = metrics.length_verdict(steps, "fvu", "features")
    assert said == "falls at 1 and rises at 2 of 4 steps"


def test_models_are_compared_on_the_same_documents(skills):
    sweeps = {"0": sweep([0.2, 0.4]), "9": sweep([0.1, 0.1], sets=20)}
    with pytest.raises(InputError, match="on the same documents"):
        metrics.length_steps(sweeps, skills[2])
