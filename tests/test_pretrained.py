"""Pretrained models and SAEs from a hub of our own, by the real libraries."""

import json
import shutil

import numpy as np
import pytest
import torch

from helpers import activations
from helpers.errors import InputError
from helpers.pretrained import folders as places
from helpers.pretrained import hub as files
from helpers.pretrained import models, releases, saes, vocabulary
from helpers.pretrained.names import base, official
from helpers.pretrained.vocabulary import load_original
from helpers.text.tokenizer import END_OF_TEXT
from tests import checkpoints
from tests.hub import Hub

KINDS = ("gpt2", "llama", "gemma", "gemma2", "gemma3")
SENTENCE = "The quick brown fox: 12 jugs, <eos> and <|endoftext|> más."
JB, V5 = "gpt2-small-res-jb", "gpt2-small-resid-post-v5-32k"
SCOPE, SCOPE_2 = "gemma-scope-2b-pt-res-canonical", (
    "gemma-scope-2-270m-pt-res-all")  # fmt: skip


@pytest.fixture(scope="module")
def server():
    with Hub(checkpoints.repositories()) as hub:
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def environment(server, home, monkeypatch):
    server.reset()
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_allowed")
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("HF_ENDPOINT", server.url)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {k: checkpoints.model_folder(k, root / k) for k in KINDS}


@pytest.fixture(scope="module")
def loaded(folders):
    return {k: models.load(str(folders[k])) for k in KINDS}


def original(folder, ids):
    """Hidden states and logits by transformers alone, its own numbers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager")  # fmt: skip
    with torch.no_grad():
        found = model(ids, output_hidden_states=True)
    return found.hidden_states, found.logits


def renumber(ids, bos):
    """0 and ``bos`` change places."""
    ids = torch.as_tensor(ids)
    return torch.where(ids == 0, bos, torch.where(ids == bos, 0, ids))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_gives_the_numbers_of_transformers(kind, folders, loaded):
    it = loaded[kind]
    rows = torch.randint(0, it.vocabulary.size, (2, 12))
    rows[:, 0] = 0
    theirs, logits = original(
        folders[kind], renumber(rows, it.vocabulary.bos))  # fmt: skip
    with torch.no_grad():
        ours = it.model(rows)
    everything = renumber(
        torch.arange(ours.shape[-1]), it.vocabulary.bos)  # fmt: skip
    torch.testing.assert_close(ours, logits[..., everything],
                               atol=2e-5, rtol=1e-4)  # fmt: skip
    names = [f"blocks.{n}.hook_resid_pre" for n in range(5)]
    names += ["blocks.2.hook_resid_post", "blocks.4.mlp.hook_post"]
    found = activations.run(it.model, rows, names)
    for layer in range(5):
        torch.testing.assert_close(
            found[names[layer]], theirs[layer], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(
        found["blocks.2.hook_resid_post"], theirs[3], atol=2e-5, rtol=1e-4)
    assert found["blocks.4.mlp.hook_post"].shape[-1] in (64, 128)


@pytest.mark.parametrize("kind", ("gpt2", "llama", "gemma"))
def test_token_0_begins_every_tokenizer(kind, folders, loaded):
    known = loaded[kind].vocabulary
    theirs = load_original(folders[kind])
    ours, bos = known.tokenizer, known.bos
    assert bos == theirs.bos_token_id != 0
    assert ours.token_to_id(END_OF_TEXT) == 0
    plain = SENTENCE.replace("<eos>", "eos").replace(END_OF_TEXT, "")
    ids = theirs.encode(plain, add_special_tokens=False)
    assert ours.encode(plain).ids == renumber(ids, bos).tolist()
    assert ours.decode(ours.encode(plain).ids) == plain
    special = set(renumber(theirs.all_special_ids, bos).tolist())
    assert special & set(ours.encode(SENTENCE).ids) <= {0}


def test_token_0_of_a_unigram_tokenizer():
    import tokenizers
    from tokenizers import Tokenizer, pre_tokenizers

    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("\u2581", -2.0), ("a", -1.0),
              ("\u2581a", -1.5)]  # fmt: skip
    tokenizer = Tokenizer(tokenizers.models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "<extra>"])
    theirs = json.loads(tokenizer.to_str())
    for bos in (1, 5):  # in the list; only added
        ours = Tokenizer.from_str(json.dumps(
            vocabulary.renumbered(json.loads(json.dumps(theirs)), bos)))
        assert ours.token_to_id(END_OF_TEXT) == 0
        assert ours.token_to_id("<unk>") == bos
        ids = tokenizer.encode("a aa b", add_special_tokens=False).ids
        assert ours.encode("a aa b").ids == renumber(ids, bos).tolist()


def test_centring_takes_the_mean_from_the_residual_stream(folders, loaded):
    plain = loaded["gpt2"]
    centred = models.load(str(folders["gpt2"]),
                              center_writing_weights=True)  # fmt: skip
    rows = torch.randint(0, plain.vocabulary.size, (2, 12))
    name = "blocks.3.hook_resid_post"
    x, y = (activations.run(m.model, rows, [name])[name]
            for m in (plain, centred))  # fmt: skip
    assert x.mean(-1).abs().max() > 1e-3
    torch.testing.assert_close(y, x - x.mean(-1, keepdim=True),
                               atol=1e-5, rtol=1e-4)  # fmt: skip
    with pytest.raises(InputError, match="RMS norm"):
        models.load(str(folders["llama"]), center_writing_weights=True)


def test_names_that_mean_the_same():
    for name in ("gpt2", "gpt2-small", "openai-community/gpt2", "/a/gpt2/"):
        assert base(name) == "gpt2"
    assert base("google/gemma-2-2b") != base("google/gemma-2b")
    assert official("gpt2-small") == official("gpt2") == (
        "openai-community/gpt2")
    assert official("me/gpt2") == "me/gpt2"


def test_a_model_by_name_is_fetched_once_and_then_needs_no_hub(
    server, monkeypatch
):
    first = models.load("gpt2", context=16)
    assert first.model.cfg.n_ctx == 16
    asked = [path for _, path, _ in server.requests]
    assert any("model.safetensors" in path for path in asked)
    assert not any("pytorch_model.bin" in path for path in asked)
    server.reset()
    models.load("gpt2")
    assert server.requests == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    again = models.load("gpt2")
    rows = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(again.model(rows), first.model(rows))
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        models.load("distilbert/distilgpt2")


def test_a_gated_model_in_shards(server, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN_PATH", "/nowhere")
    with pytest.raises(InputError, match="gemma-2b is gated"):
        models.load("google/gemma-2b")
    monkeypatch.setenv("HF_TOKEN", "hf_allowed")
    found = places.find("google/gemma-2b")
    assert len(list(found.glob("model-*.safetensors"))) > 1
    assert models.load("google/gemma-2b").model.cfg.n_layers == 5


def expected_codes(release, folder, x):
    """What the SAEs of each release say, from their weights alone."""
    from safetensors.torch import load_file

    if release == SCOPE:
        with np.load(folder / "params.npz") as data:
            w = {k: torch.from_numpy(data[k]) for k in data}
    elif release == SCOPE_2:
        w = load_file(folder / "params.safetensors")
        w = {k.replace("w_", "W_"): v for k, v in w.items()}
    else:
        w = load_file(folder / "sae_weights.safetensors")
    if "threshold" in w:
        pre = x @ w["W_enc"] + w["b_enc"]
        return torch.where(pre > w["threshold"], pre, 0.0)
    if release == JB:
        return torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.std(-1, keepdim=True) + 1e-5)
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    values, places = pre.topk(8)
    return torch.zeros_like(pre).scatter(-1, places, values.relu())


@pytest.mark.parametrize(
    ("release", "sae_id", "model", "center", "hook_point"),
    [
        (JB, "blocks.2.hook_resid_pre", "gpt2", True,
         "blocks.2.hook_resid_pre"),
        (V5, "blocks.3.hook_resid_post", "gpt2", False,
         "blocks.3.hook_resid_post"),
        (SCOPE, "layer_1/width_16k/canonical", "google/gemma-2-2b", False,
         "blocks.1.hook_resid_post"),
        (SCOPE_2, "layer_3_width_16k_l0_small", "google/gemma-3-270m", False,
         "blocks.3.hook_resid_post"),
    ],
)  # fmt: skip
def test_published_saes_and_their_models(
    server, monkeypatch, release, sae_id, model, center, hook_point
):
    found = saes.load_sae(release, sae_id)
    assert found.hook_point == hook_point
    assert found.center_writing_weights == center
    place = releases.locate(release, sae_id)
    folder = files.snapshot(place.repository) / place.folder
    x = torch.randn(50, checkpoints.WIDTH) + 0.3
    codes = expected_codes(release, folder, x)
    torch.testing.assert_close(found.sae.encode(x), codes,
                               atol=1e-5, rtol=1e-4)  # fmt: skip
    assert (codes > 0).any() and (codes == 0).any()
    right = models.load(model, center_writing_weights=center)
    found.check(right)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    server.reset()
    saes.load_sae(release, sae_id)
    assert server.requests == []


def test_an_sae_meets_only_what_it_was_trained_on(folders, loaded):
    jb = saes.load_sae(JB, "blocks.2.hook_resid_pre")
    plain = models.load("gpt2")
    centred = models.load("gpt2", center_writing_weights=True)
    jb.check(centred, "blocks.2.hook_resid_pre")
    with pytest.raises(InputError, match="center_writing_weights=True, not F"):
        jb.check(plain)
    v5 = saes.load_sae(V5, "blocks.3.hook_resid_post")
    with pytest.raises(InputError, match="center_writing_weights=False, not"):
        v5.check(centred)
    with pytest.raises(InputError, match="trained on blocks.2.*means nothing"):
        jb.check(centred, "blocks.1.hook_resid_pre")
    with pytest.raises(InputError, match="no hook point.*nearest are blocks.2"):
        jb.check(centred, "blocks.2.hook_resid_pree")
    with pytest.raises(InputError, match="trained on gpt2-small and means not"):
        v5.check(loaded["llama"])
    wide = checkpoints.sae_tensors(0, d_in=48)
    v5.sae.d_in = wide["W_enc"].shape[0]
    with pytest.raises(InputError, match="48 numbers.*has 32 at blocks.3"):
        v5.check(plain)


@pytest.mark.parametrize(
    ("release", "sae_id", "said"),
    [
        ("gpt2-small-res-jp", "x", "nearest are gpt2-small-res-jb"),
        (JB, "blocks.2.hook_resid_post", "nearest are blocks.*resid_pre"),
        ("gpt2-small-hook-z-kk", "blocks.0.hook_z", "connor_rob.*accepted"),
        ("openai-community/gpt2", "sae", "has no sae/sae_weights.safetens"),
    ],
)
def test_a_wrong_name_of_an_sae_is_told(release, sae_id, said):
    with pytest.raises(InputError, match=said):
        saes.load_sae(release, sae_id)


def changed(folder, tmp_path, name, content):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / name).write_bytes(content)
    return str(copy)


def test_a_model_that_cannot_be_read_is_told(folders, tmp_path):
    gpt2 = folders["gpt2"]
    with pytest.raises(InputError, match="there is no folder /nowhere"):
        models.load("/nowhere")
    with pytest.raises(InputError, match="lacks config.json"):
        models.load(str(tmp_path))
    config = json.loads((gpt2 / "config.json").read_text())
    config["architectures"] = ["GPT2XLMHeadModel"]
    unknown = changed(gpt2, tmp_path / "a", "config.json",
                      json.dumps(config).encode())  # fmt: skip
    with pytest.raises(InputError, match="nearest.*GPT2LMHeadModel"):
        models.load(unknown)
    weights = (gpt2 / "model.safetensors").read_bytes()
    for number, part in enumerate((weights[:1000], b"x" + weights[1:])):
        broken = changed(gpt2, tmp_path / f"b{number}",
                         "model.safetensors", part)  # fmt: skip
        with pytest.raises(InputError, match="weights .* cannot be read"):
            models.load(broken)
    with pytest.raises(InputError, match="rows of 2 to 64 tokens, not 65"):
        models.load(str(gpt2), context=65)


def test_another_models_tokenizer_is_told(folders, tmp_path):
    text = (folders["gemma"] / "tokenizer.json").read_bytes()
    other = changed(folders["gpt2"], tmp_path, "tokenizer.json", text)
    with pytest.raises(InputError, match="another model's tokenizer"):
        models.load(other)
