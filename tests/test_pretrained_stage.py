"""From a folder of any causal language model to SAEs and feature tables."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from helpers import (
    activations,
    artifacts,
    features,
    language_model,
    metrics,
    paths,
    text,
)
from helpers.compare import Contrast, layers
from helpers.errors import InputError
from helpers.language_model import load_language_model
from helpers.pretrained import stage, vocabulary
from helpers.train import load_log, load_sae, make_saes
from helpers.train.__main__ import main as train
from helpers.train.inputs import check_tokens
from tests import checkpoints
from tests.hub import Hub

KINDS = ("gpt2", "llama", "gemma")
LAYERS = range(5)


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory):
    where = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOOK_ARTIFACTS", str(where / "artifacts"))
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        patch.setenv("HF_HOME", str(where / "home"))
        yield where


@pytest.fixture(scope="module", params=KINDS)
def run(request, root):
    """Model, tokenizer, tokens and SAEs of five layers, one pass for all."""
    profile = request.param
    folder = checkpoints.model_folder(profile, root / profile)
    prose = root / "prose.txt"
    lines = [f"{n}. {checkpoints.TEXT[n % 4]} <eos> {n * n}\n\n"
             for n in range(300)]  # fmt: skip
    prose.write_text("".join(lines))
    natural = text.make_natural_text(profile, str(prose), megabytes=1)
    model = stage.make_language_model(profile, str(folder), context=32)
    tokenizer = vocabulary.make_tokenizer(profile, str(folder))
    tokens = text.make_tokens(profile, natural, [], tokenizer, tokens=10_000,
                              context=32, synthetic_share=0)  # fmt: skip
    how = dict(architecture="topk", expansion=2, k=8, batch=256,
               activations=6_000, log_every=5)  # fmt: skip
    wanted = {
        f"layer-{n}": how | {"hook_point": f"blocks.{n}.hook_resid_post"}
        for n in LAYERS
    }
    return profile, model, tokenizer, tokens, make_saes(
        profile, wanted, model, tokens)  # fmt: skip


def test_activations_are_those_of_text_alone(run):
    _, model, _, tokens, _ = run
    network = load_language_model(model)
    stream = text.load_tokens(tokens).train
    names = [f"blocks.{n}.hook_resid_post" for n in LAYERS]
    batch = next(activations.stream(network, stream, names, batch=64,
                                    buffer=512))  # fmt: skip
    rows = torch.from_numpy(
        activations.contexts(stream, network.cfg.n_ctx).astype(np.int64))
    for name in names:
        x = activations.run(network, rows, [name])[name]
        held = x[rows != activations.BOS]
        near = torch.cdist(batch[name], held).min(1).values
        assert near.max() < 1e-3
        starts = x[rows == activations.BOS]
        assert torch.cdist(batch[name], starts).min() > near.max()


def test_each_layer_gets_an_sae_that_learns(run):
    _, model, _, tokens, saes = run
    network = load_language_model(model)
    for layer, path in zip(LAYERS, saes.values(), strict=True):
        log = load_log(path)
        assert log.fvu.iloc[-1] < 0.8 * log.fvu.iloc[0]
        sae = load_sae(path)
        assert sae.hook_point == f"blocks.{layer}.hook_resid_post"
        assert sae.d_in == activations.width(network, sae.hook_point)


def test_layers_are_compared_each_by_its_own_sae(run):
    """Against activations of each hook point, encoded one text at a time."""
    profile, model, tokenizer, _, saes = run
    texts = [f"{word} {line}" for line in checkpoints.TEXT
             for word in ("jumps", "vow")]  # fmt: skip
    documents = pd.DataFrame({
        "text": texts, "label": ["a", "b"] * 4, "group": np.arange(8) // 2,
    })  # fmt: skip
    depth = layers.study(profile, documents, [Contrast("a", "b")],
                         threshold=1e-3, min_documents=2)  # fmt: skip
    assert depth.count == 5 and depth.leads.startswith("a vs b: layer ")
    network = load_language_model(model)
    encoder = text.load_tokenizer(tokenizer)
    for layer, path in zip(LAYERS, saes.values(), strict=True):
        sae, maxima = load_sae(path), []
        for ids in (e.ids[:31] for e in encoder.encode_batch(texts)):
            rows = torch.tensor([[0, *ids]])
            x = activations.run(network, rows, [sae.hook_point])
            f = sae.encode(x[sae.hook_point][0, 1:])
            maxima.append(f.max(0).values.numpy())
        gap = np.mean(maxima[::2], axis=0) - np.mean(maxima[1::2], axis=0)
        found = depth.deflections[depth.deflections["layer"] == layer]
        np.testing.assert_allclose(found["deflection"], gap[found["feature"]],
                                   atol=2e-2)  # float16 is stored


def test_quality_and_features_of_a_pretrained_model(run):
    profile, model, tokenizer, tokens, saes = run
    if profile == "gemma":  # the slowest part, once
        made = metrics.make_quality(profile, "layer-3", saes["layer-3"],
                                    model, tokens)  # fmt: skip
        losses = metrics.load_quality(made).losses().loc["natural text"]
        assert 0 < losses["clean"] < 10 and 0 < losses["sae"] < 10
    corpus = paths.natural_text(profile)
    made = features.make_features(
        profile, "layer-3", "natural", model=model, tokenizer=tokenizer,
        corpus=corpus, sae=saes["layer-3"],
        hook_point="blocks.3.hook_resid_post")  # fmt: skip
    table = features.load_features(made)
    frame = text.load_documents(corpus)
    words = frame.text.iloc[table.documents[0]]
    end = table.offsets[1]
    places = zip(table.char_start[:end], table.char_end[:end], strict=True)
    loaded = text.load_tokenizer(tokenizer)
    cut = [words[a:b] for a, b in places]
    spelled = [loaded.decode([i]) for i in table.token_ids[:end]]
    same = sum(a.strip() == b.strip() for a, b in
               zip(cut, spelled, strict=True))  # fmt: skip
    assert same > 0.8 * len(cut) and table.n_documents > 5
    with pytest.raises(InputError, match="trained on blocks.3"):
        features.make_features(
            profile, "x", "natural", model=model, tokenizer=tokenizer,
            corpus=corpus, sae=saes["layer-3"],
            hook_point="blocks.2.hook_resid_post")  # fmt: skip


def test_another_tokenizer_is_refused(run, root):
    profile, model, tokenizer, _, _ = run
    other = checkpoints.model_folder(
        "llama" if profile != "llama" else "gpt2", root / f"other-{profile}")
    wrong = vocabulary.make_tokenizer(f"{profile}-wrong", str(other))
    with pytest.raises(InputError, match="tokenizer is not that of"):
        features.make_features(
            profile, "neurons", "wrong", model=model, tokenizer=wrong,
            corpus=paths.natural_text(profile))  # fmt: skip


def test_text_of_another_tokenizer_trains_no_sae(
    run, root, tmp_path, capsys
):
    profile, model, _, tokens, _ = run
    other = checkpoints.model_folder(
        "llama" if profile != "llama" else "gpt2", root / f"alien-{profile}")
    alien = stage.make_language_model(profile, str(other), "alien", context=32)
    check_tokens(model, tokens)
    with pytest.raises(InputError, match="tokenizer is not that of"):
        check_tokens(alien, tokens)
    wanted = tmp_path / "saes.yaml"
    wanted.write_text(yaml.safe_dump(
        {"profile": profile, "model": "alien", "saes": {"x": {}}}))
    assert train([str(wanted)]) == 2
    said = capsys.readouterr().err
    assert "tokenizer is not that of" in said and said.count("\n") == 1
    vocabulary.make_tokenizer(profile, str(other))
    with pytest.raises(InputError, match="cut by another tokenizer than the"):
        check_tokens(model, tokens)
    vocabulary.make_tokenizer(profile, str(root / profile))


def test_a_text_that_is_too_long_is_told(run):
    predict = language_model.predictor(load_language_model(run[1]))
    with pytest.raises(InputError, match="has 65 tokens.*reads 64 at most"):
        predict(np.ones((1, 65)))


def test_controls_of_a_pretrained_model(run):
    profile, model, _, tokens, _ = run
    streams = text.load_tokens(tokens)
    rows = streams.held_out["prose"][:4]
    losses, weights = {}, {}
    for name in language_model.CONTROLS:
        made = language_model.make_control(profile, name, model)
        again = load_language_model(made)
        losses[name] = language_model.predictor(again)(rows)
        assert np.array_equal(
            losses[name], language_model.predictor(
                load_language_model(made))(rows))  # fmt: skip
        weights[name] = again.W_out[2].flatten().sort().values
    network = load_language_model(model)
    losses["A"] = language_model.predictor(network)(rows)
    assert losses["A"].shape == (len(rows), rows.shape[1] - 1)
    whole = network.W_out[2].flatten().sort().values
    assert torch.equal(weights["shuffled"], whole)
    assert not torch.allclose(weights["untrained"], whole)
    for name in language_model.CONTROLS:
        assert abs(losses[name] - losses["A"]).max() > 1e-3
    table = language_model.table_of_losses({"A": network}, streams)
    one = torch.from_numpy(rows[:1].astype(np.int64))
    with torch.no_grad():
        own = network(one, return_type="loss").item()
    assert abs(losses["A"][0].mean() - own) < 1e-4
    assert table.loc["prose", "A"] > 0


def test_where_the_chapters_look(run, root):
    profile, model, _, _, _ = run
    assert language_model.hook_point(model) == "blocks.0.mlp.hook_post"
    folder, where = str(root / profile), "blocks.3.hook_resid_post"
    made = stage.make_language_model(profile, folder, "C", context=32,
                                     hook_point=where)  # fmt: skip
    assert language_model.hook_point(made) == where
    with pytest.raises(InputError, match="nearest are"):
        stage.make_language_model(profile, folder, "D", context=32,
                                  hook_point="blocks.9")  # fmt: skip


def test_what_neurons_and_heads_write(run):
    _, model, _, _, _ = run
    network = load_language_model(model)
    rows = torch.arange(1, 13)[None]
    names = ["blocks.2.mlp.hook_post", "blocks.2.hook_mlp_out",
             "blocks.2.attn.hook_z", "blocks.2.hook_attn_out"]  # fmt: skip
    found = activations.run(network, rows, names)
    for inner, outer in (names[:2], names[2:]):
        out = language_model.written(network, inner, found[inner][0])
        bias = found[outer][0] - out  # the same at every token
        assert (bias - bias[:1]).abs().max() < 1e-4
        assert torch.equal(
            language_model.written(network, outer, out), out)  # fmt: skip


def test_other_weights_are_another_model(root):
    first = checkpoints.model_folder("gpt2", root / "same", seed=5)
    made = stage.make_language_model("again", str(first), context=32)
    before = artifacts.read_manifest(made)["key"]
    checkpoints.model_folder("gpt2", root / "same", seed=6)
    made = stage.make_language_model("again", str(first), context=32)
    assert artifacts.read_manifest(made)["key"] != before
    config = json.loads((made / "config.json").read_text())
    assert config["vocab_size"] == 300


def test_published_saes_become_artifacts(root):
    with Hub(checkpoints.repositories()) as hub:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_ENDPOINT", hub.url)
            right = stage.make_language_model(
                "jb", "gpt2", center_writing_weights=True, context=32)
            wrong = stage.make_language_model("jb", "gpt2", "B", context=32)
            place = "gpt2-small-res-jb", "blocks.4.hook_resid_pre"
            made = stage.make_sae("jb", "jb-4", *place, right)
            with pytest.raises(InputError, match="center_writing_weights"):
                stage.make_sae("jb", "jb-4-wrong", *place, wrong)
            where = "blocks.3.hook_resid_pre"
            with pytest.raises(InputError, match="trained on blocks.4.*means"):
                stage.make_sae("jb", "jb-4-there", *place, right, where)
    assert load_sae(made).hook_point == "blocks.4.hook_resid_pre"
    metadata = json.loads((made / "cfg.json").read_text())["metadata"]
    assert metadata["model_name"] == "gpt2-small"


def test_large_vocabularies_keep_their_numbers():
    ids = [70_000, 3]
    assert features._numbers(ids).tolist() == ids
    assert features._numbers([3]).dtype == np.uint16
    assert text.tokens.token_dtype(262_144) == np.uint32
    assert text.tokens.token_dtype(65_536) == np.uint16
