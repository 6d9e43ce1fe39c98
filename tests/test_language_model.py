"""The fast transformer against TransformerLens' own, and what is measured
with it against hand-worked cases."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import artifacts, devices, language_model, paths
from helpers.errors import InputError
from helpers.language_model import evaluation, models, training, transformer
from helpers.text.tokens import Tokens

SHAPE = language_model.Architecture(
    layers=2, d_model=16, heads=4, d_mlp=24, context=12, vocab_size=40
)


def some_weights(seed=0):
    """Weights with nothing at zero, so that every term is tested."""
    random = torch.Generator().manual_seed(seed)
    return {
        name: value + 0.3 * torch.randn(value.shape, generator=random)
        for name, value in transformer.initial_weights(SHAPE, seed).items()
    }


def some_tokens(rows=7, pos=12):
    random = torch.Generator().manual_seed(5)
    return torch.randint(SHAPE.vocab_size, (rows, pos), generator=random)


def clear_version(weights):
    shape = dataclasses.asdict(SHAPE)
    return models.as_hooked(shape, weights, torch.device("cpu"))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny products are faster on one thread than on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def clear():
    return clear_version(some_weights())


@pytest.mark.parametrize(
    "dtype, loss_error, grad_error",
    [(torch.float32, 1e-5, 1e-4), (torch.bfloat16, 2e-2, 0.1)],
)
def test_loss_and_gradients_equal_hooked_transformer(
    dtype, loss_error, grad_error, monkeypatch
):
    monkeypatch.setattr(transformer, "CHUNK", 10)  # the last one is shorter
    model = clear_version(some_weights()).requires_grad_(True)
    expected = model(some_tokens(), return_type="loss")
    expected.backward()
    weights = {k: v.requires_grad_() for k, v in some_weights().items()}
    mean = language_model.loss(weights, some_tokens(), dtype)
    (2 * mean).backward()
    assert mean.item() == pytest.approx(expected.item(), abs=loss_error)
    whole = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
    for name, parameter in model.named_parameters():
        error = (weights[name].grad / 2 - parameter.grad).norm()
        scale = parameter.grad.norm() + 1e-2 * whole  # b_K's is zero
        assert error / scale < grad_error, name


def test_token_losses_equal_hooked_transformer(clear, monkeypatch):
    monkeypatch.setattr(transformer, "CHUNK", 10)
    expected = clear(some_tokens(), return_type="loss", loss_per_token=True)
    found = language_model.token_losses(some_weights(), some_tokens())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_mlp_hook_point_has_the_neurons(clear):
    _, cache = clear.run_with_cache(some_tokens())
    assert cache["blocks.0.mlp.hook_post"].shape == (7, 12, SHAPE.d_mlp)


def test_neurons_of_the_fast_version_are_those_at_the_hook_points(clear):
    _, cache = clear.run_with_cache(some_tokens())
    neurons = []
    language_model.loss(some_weights(), some_tokens(), neurons=neurons)
    for layer, found in enumerate(neurons):
        expected = cache[f"blocks.{layer}.mlp.hook_post"][:, :-1].flatten(0, 1)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert len(neurons) == SHAPE.layers


def test_the_penalty_is_the_mean_sum_of_the_neurons():
    by_layer = [torch.tensor([[1.0, 0.0], [2.0, 5.0]]), torch.ones(2, 3)]
    assert training._l1(by_layer, 0.5).item() == 0.5 * ((1 + 7) / 2 + 3)


@pytest.mark.parametrize("field", ["layers", "d_model", "vocab_size"])
def test_an_empty_shape_is_refused(field):
    with pytest.raises(InputError, match=f"{field} must be at least 1"):
        dataclasses.replace(SHAPE, **{field: 0})


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match="multiple of heads"):
        dataclasses.replace(SHAPE, heads=5)


def test_contexts_cover_the_stream_once_per_epoch():
    stream = np.arange(1000)
    rows = np.concatenate(list(training.batches(stream, 10, 3, 40, seed=1)))
    assert (np.diff(rows, axis=1) == 1).all()
    first_epoch = np.sort(rows[:99, 0])
    assert (np.diff(first_epoch) == 10).all()
    assert rows.max() < 1000
    assert (rows[:99, 0] != first_epoch).any(), "not shuffled"
    other = np.concatenate(list(training.batches(stream, 10, 3, 40, seed=2)))
    assert (rows != other).any()


def test_a_stream_of_one_context_is_enough_and_less_is_not():
    starts = training.context_starts(11, 10, 4, seed=0)
    assert starts.tolist() == [0, 0, 0, 0]
    with pytest.raises(InputError, match="at least 11"):
        training.context_starts(10, 10, 4, seed=0)


def test_the_rate_rises_then_falls_to_nothing():
    rate = training.rate(100)
    rates = [rate(step) for step in range(100)]
    assert rates[0] == 0.5 and max(rates) == pytest.approx(0.99)
    assert np.argmax(rates) == 1 and rates[-1] == pytest.approx(0.01)


def cyclic_text(length=4000, classes=("prose",)):
    """Token w is always followed by 3 w + 1 (mod 40): fully predictable."""
    stream = [1]
    for _ in range(length - 1):
        stream.append((3 * stream[-1] + 1) % 40)
    stream = np.array(stream, np.uint16)
    rows = {name: stream[: 5 * 12].reshape(5, 12) for name in classes}
    lengths = {name: np.array([12, 12, 5, 12, 1]) for name in classes}
    return Tokens(stream, rows, lengths, 40, 12, {}, None)


def train_on_the_cycle(monkeypatch, dtype, penalty=0.0):
    monkeypatch.setattr(training, "find_precision", lambda device: dtype)
    shape = dataclasses.replace(SHAPE, layers=1)
    return training.train(
        shape, cyclic_text(), 60_000, 32, 2e-2, seed=3, penalty=penalty
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_learns(dtype, monkeypatch):
    _, curve = train_on_the_cycle(monkeypatch, dtype)
    frame = pd.DataFrame(curve)
    held_out = frame[frame.text_class == "prose"].loss.to_numpy()
    assert 8 < len(held_out) <= training.POINTS
    assert held_out[0] > 2 and held_out[-1] < 0.5


def test_training_twice_gives_the_same_bytes(monkeypatch):
    runs = [train_on_the_cycle(monkeypatch, torch.bfloat16) for _ in range(2)]
    (weights, curve), (again, curve_again) = runs
    assert all(torch.equal(weights[k], again[k]) for k in weights)
    assert curve == curve_again


def test_a_penalty_makes_neurons_sparse_and_the_model_still_learns(
    monkeypatch,
):
    rows = torch.from_numpy(cyclic_text().train[None, :13].astype("int64"))
    density = []
    for penalty in (0.0, 0.01):
        weights, curve = train_on_the_cycle(
            monkeypatch, torch.float32, penalty
        )
        neurons = []
        language_model.loss(weights, rows, neurons=neurons)
        density.append((neurons[0] > 0).float().mean())
        frame = pd.DataFrame(curve).set_index("text_class")["loss"]
        assert frame["prose"].iloc[-1] < 0.5 > frame["training"].iloc[-1]
    assert density[1] < 0.6 * density[0]


def test_precision_is_what_the_processor_has(monkeypatch):
    device = torch.device("cpu")
    for found, expected in [
        ({}, torch.float32),
        ({"avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({"amx_bf16": True}, torch.bfloat16),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda f=found: f)
        assert devices.find_precision(device) == expected


def test_a_loss_that_is_no_number_stops_with_a_sentence():
    with pytest.raises(InputError, match="nan at step 50.*learning_rate"):
        training._checked(torch.tensor(float("nan")), 50)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A model made by the public functions, from a stub token artifact."""
    monkeypatch.setenv("BOOK_ARTIFACTS", str(tmp_path))
    monkeypatch.setattr(training, "load_tokens", lambda _: cyclic_text())

    def make(folder):
        (folder / "tokens").write_text("stub")

    tokens = artifacts.produce(paths.tokens("test"), make, parameters={})
    return language_model.make_language_model(
        "test", "A", tokens, d_model=16, d_mlp=24, train_tokens=2000,
        batch=8, seed=3,
    )


def test_make_then_load_gives_a_hooked_transformer(trained):
    model = language_model.load_language_model(trained)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    logits = model(torch.zeros(1, 12, dtype=torch.long))
    assert logits.shape == (1, 12, 40) and logits.isfinite().all()
    curve = language_model.load_learning(trained)
    assert set(curve.text_class) == {"training", "prose"}


def test_controls_start_over_or_permute(trained):
    weights = language_model.load_weights(trained)
    untrained = language_model.make_control("test", "untrained", trained)
    shuffled = language_model.make_control("test", "shuffled", trained)
    config = models.load_config(untrained)
    start = transformer.initial_weights(
        transformer.Architecture(**config["architecture"]), seed=3
    )
    for name, value in language_model.load_weights(untrained).items():
        assert torch.equal(value, start[name])
    for name, value in language_model.load_weights(shuffled).items():
        if transformer.is_matrix(name):
            assert not torch.equal(value, weights[name])
            value, expected = value.flatten().sort(), weights[name].flatten()
            assert torch.equal(value.values, expected.sort().values)
        else:
            assert torch.equal(value, weights[name])


def test_an_unknown_control_names_the_nearest(trained):
    with pytest.raises(InputError, match="did you mean 'shuffled'"):
        language_model.make_control("test", "shufled", trained)


def fixed_losses(rows):
    """A predictor whose loss on a token is the token's number."""
    return rows[:, 1:].astype(float)


def test_losses_by_class_by_hand():
    rows = np.array([[0, 1, 3, 0], [0, 5, 0, 0]], np.uint16)
    tokens = Tokens(None, {"a": rows}, {"a": np.array([3, 2])}, 9, 4, {}, None)
    table = language_model.losses_by_class(fixed_losses, tokens)
    # Documents of 2 tokens (1 + 3) and 1 token (5): 9 nats on 3 tokens.
    assert table.loss.tolist() == [3.0]
    assert table.tokens.tolist() == [3]
    # Residuals 4 - 2 * 3 = -2 and 5 - 3 = 2: sqrt(8 * 2 / 1) / 3.
    assert table.standard_error[0] == pytest.approx(4 / 3)


def test_losses_by_class_of_a_model_equal_its_own(clear):
    tokens = cyclic_text()
    table = language_model.losses_by_class(clear, tokens)
    rows = torch.from_numpy(tokens.held_out["prose"].astype(np.int64))
    losses = clear(rows, return_type="loss", loss_per_token=True)
    sums = [losses[i, : n - 1].sum() for i, n in
            enumerate(tokens.lengths["prose"])]
    expected = float(sum(sums)) / 37
    assert table.loss[0] == pytest.approx(expected, rel=1e-5)


class Pieces:
    """A stand-in tokenizer: the pieces are those between bars."""

    def encode(self, text, add_special_tokens):
        ends = np.cumsum([3, 2, 2, 3]).tolist()
        self.offsets = list(zip([0, *ends[:-1]], ends, strict=True))
        return self


def test_random_spans_count_whole_tokens_only(monkeypatch):
    # Pieces: "ab:" "GA" "TC" "A.." of a span at 3-8; the last straddles.
    spans = json.dumps([["random", "4", 3, 8], ["kind", "DNA", 0, 10]])
    documents = pd.DataFrame(
        {"class": ["f/DNA", "prose"], "row": [0, 0], "length": [5, 5],
         "text": ["ab:GATCA..", "plain"], "spans": [spans, None]}
    )
    monkeypatch.setattr(Tokens, "documents", documents)
    rows = {"f/DNA": np.array([[0, 7, 2, 3, 8]], np.uint16)}
    tokens = Tokens(None, rows, {"f/DNA": np.array([5])}, 9, 5, {}, None)
    table = evaluation.random_span_losses(fixed_losses, tokens, Pieces())
    assert table[["class", "alphabet"]].to_numpy().tolist() == [["f/DNA", 4]]
    assert table[["characters", "tokens"]].to_numpy().tolist() == [[4, 2]]
    assert table.loss[0] == pytest.approx(5 / 4)
    assert table.excess[0] == pytest.approx(5 / 4 / np.log(4) - 1)


def test_ablations_by_hand(clear):
    rows = some_tokens().numpy().astype(np.uint16)
    lengths = np.array([12, 5, 12, 2, 7, 12, 12])
    hook_point = "blocks.1.mlp.hook_post"
    found = evaluation.ablation_losses(clear, rows, lengths, hook_point)
    _, cache = clear.run_with_cache(some_tokens())
    neurons = cache[hook_point]
    mean = torch.cat([a[:n] for a, n in zip(neurons, lengths, strict=True)])
    for name, value in [("zero", 0.0), ("mean", mean.mean(0))]:
        out = value * torch.ones(SHAPE.d_mlp) @ clear.W_out[1]
        x = cache["blocks.1.hook_resid_mid"] + out + clear.b_out[1]
        logits = clear.unembed(clear.ln_final(x))
        losses = -logits.log_softmax(-1)[:, :-1].gather(
            2, some_tokens()[:, 1:, None]
        )[..., 0]
        kept = [a[: n - 1] for a, n in zip(losses, lengths, strict=True)]
        assert found[name] == pytest.approx(torch.cat(kept).mean().item())
    assert len({round(value, 6) for value in found.values()}) == 3


def test_models_side_by_side(clear):
    both = {"A": clear, "number": fixed_losses}
    table = language_model.table_of_losses(both, cyclic_text())
    alone = language_model.losses_by_class(clear, cyclic_text())
    assert table.loc["prose", "A"] == alone.loss[0]
    assert list(table) == ["A", "number", "tokens", "standard_error"]
