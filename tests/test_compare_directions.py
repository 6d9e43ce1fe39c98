"""Random and principal directions go where features and neurons go."""

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import compare, features
from helpers.errors import InputError
from tests.test_activations import HOOKS
from tests.test_features import inputs, tabulated  # noqa: F401 (a fixture)


def test_both_ends_of_a_direction_are_features():
    made = features.Directions(
        np.array([[3.0, 0.0], [4.0, -2.0]]), HOOKS[0], np.array([1.0, 0.0])
    )
    x = torch.tensor([[2.0, 2.0], [1.0, -1.0]])
    # from (1, 0): (1, 2) and (0, -1); along (.6, .8) and (0, -1)
    expected = torch.tensor([[2.2, 0, 0, 2.0], [0, 1.0, 0.8, 0]])
    torch.testing.assert_close(made.encode(x), expected)
    assert (made.d_in, made.d_sae) == (2, 4)


def test_random_directions_are_seeded_and_centred():
    x = np.random.default_rng(0).normal(3.0, 1.0, (500, 8)).astype(np.float32)
    one, same, other = (
        features.random_directions(x, 5, HOOKS[0], seed) for seed in (0, 0, 1)
    )
    assert one.identity == same.identity != other.identity
    assert one.vectors.norm(dim=0).numpy() == pytest.approx(1.0)
    codes = one.encode(torch.from_numpy(x)).numpy()
    assert codes[:, :5].mean(0) == pytest.approx(codes[:, 5:].mean(0), rel=1e-3)


def test_principal_directions_are_those_of_the_svd():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 6)) * np.arange(1, 7)
    made = features.principal_directions(x, HOOKS[0])
    _, _, right = np.linalg.svd(x - x.mean(0), full_matrices=False)
    alike = np.abs((made.vectors.numpy().T * right).sum(1))
    assert alike == pytest.approx(1.0, abs=1e-4)
    assert made.centre.numpy() == pytest.approx(x.mean(0), abs=1e-6)


def test_a_direction_needs_a_length():
    with pytest.raises(InputError, match="has no length"):
        features.Directions(np.zeros((4, 1)), HOOKS[0], np.zeros(4))


def test_a_table_of_directions(inputs):  # noqa: F811
    """Along the axes and from 0, directions are the neurons themselves."""
    axes = features.Directions(np.eye(32), HOOKS[0], np.zeros(32))
    settings = {"split": "all", "directions": axes, **inputs}
    made = features.make_features("p", "axes", "c", **settings)
    table, neurons = features.load_features(made), tabulated()
    ours, expected = table.document_max(), neurons.document_max()
    assert ours[:, :32] == pytest.approx(expected, abs=2e-3)
    assert (ours[:, 32:] == 0).all()  # what a ReLU lets through has one sign
    first = (made / "manifest.json").read_text()
    settings["directions"] = features.Directions(
        -np.eye(32), HOOKS[0], np.zeros(32)
    )
    features.make_features("p", "axes", "c", **settings)
    assert (made / "manifest.json").read_text() != first
    with pytest.raises(InputError, match="an SAE or directions, not both"):
        features.make_features("p", "s", "c", sae=inputs["model"], **settings)


def test_side_by_side_takes_any_basis():
    rng = np.random.default_rng(2)
    documents = pd.DataFrame(
        {"label": ["a", "b"] * 40, "group": np.repeat(np.arange(40), 2)}
    )
    x = rng.normal(size=(80, 6)).astype(np.float32)
    x[::2] += 2 * np.array([1, -1, 1, -1, 1, -1])  # no neuron alone
    bases = {
        "neurons": np.maximum(x, 0),
        "principal": features.principal_directions(x, "h")
        .encode(torch.from_numpy(x))
        .numpy(),
    }
    side = compare.side_by_side(bases, documents, [compare.Contrast("a", "b")])
    scores = side.set_index("basis")["auroc"]
    assert scores["principal"] > 0.98 > scores["neurons"]
