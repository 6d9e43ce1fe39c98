"""SAEs to and from SAELens and OpenAI: the same bits in both directions."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import sae
from helpers.errors import InputError

HOOK = "blocks.1.hook_resid_post"
NAMES = sorted(sae.ARCHITECTURES)
THEIRS = ["standard", "topk", "jumprelu", "gated"]
RANKED_BY_BATCH = ("batchtopk", "matryoshka_batchtopk")


@pytest.fixture(scope="module")
def lens():
    return pytest.importorskip("sae_lens")


def points(count=50, d_in=16, seed=3):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, d_in, generator=random) * 2 + 0.5


def shake(model, seed=1):
    """Move every bias and threshold off its start."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, part in model.named_parameters():
            if part.ndim == 1:
                noise = torch.rand(part.shape, generator=random)
                part.copy_(noise if name == "threshold" else noise - 0.5)


def make(name, **options):
    model = sae.build(
        name, 16, HOOK, expansion=8, k=5, l1=1.0, seed=4, **options
    )
    shake(model)
    if name in RANKED_BY_BATCH:
        for seed in range(3):
            model.gradients(points(seed=seed))
        assert model.threshold > 0
    return model


def their_training_sae(lens, name, **config):
    """A training SAE of SAELens, its biases shaken."""
    from sae_lens.registry import get_sae_training_class

    kind, config_kind = get_sae_training_class(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = kind(config_kind(d_in=16, d_sae=128, **config))
    shake(model)
    model.cfg.metadata.hook_name = HOOK
    return model


@pytest.mark.parametrize("name", NAMES)
def test_saelens_encodes_ours_to_the_same_bits(name, lens, tmp_path):
    model = make(name)
    sae.save(model, tmp_path)
    theirs = lens.SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        ours, x = model.encode(points()), points()
        assert ours.any() and torch.equal(theirs.encode(x), ours)
        assert torch.equal(theirs(x), model(x))
    assert theirs.cfg.metadata.hook_name == HOOK
    expected = "jumprelu" if name in RANKED_BY_BATCH else name
    assert theirs.cfg.architecture() == expected


@pytest.mark.parametrize("name", THEIRS)
def test_an_sae_saved_by_saelens_loads_here(name, lens, tmp_path):
    from sae_lens.registry import get_sae_class

    kind, config_kind = get_sae_class(name)
    extra = {"k": 7} if name == "topk" else {}
    theirs = kind(config_kind(d_in=16, d_sae=128, **extra))
    shake(theirs)
    theirs.cfg.metadata.hook_name = HOOK
    theirs.save_model(tmp_path)
    check_equal(sae.load(tmp_path), theirs)
    check_equal(sae.from_sae_lens(theirs), theirs)


@pytest.mark.parametrize("name", THEIRS)
def test_their_conventions_load_too(name, lens, tmp_path):
    from sae_lens.registry import get_sae_class

    kind, config_kind = get_sae_class(name)
    extra = {"apply_b_dec_to_input": False}
    if name == "topk":
        extra |= {"k": 7, "rescale_acts_by_decoder_norm": True}
    for norm in ("none", "layer_norm"):
        config = config_kind(
            d_in=16, d_sae=128, normalize_activations=norm, **extra
        )
        theirs = kind(config)
        shake(theirs)
        theirs.save_model(tmp_path)
        ours = sae.load(tmp_path, HOOK)
        check_equal(ours, theirs)
        sae.save(ours, tmp_path)
        check_equal(sae.load(tmp_path), lens.SAE.load_from_disk(tmp_path))
        with pytest.raises(InputError, match="loaded for inference"):
            ours.gradients(points())


@pytest.mark.parametrize("name", ["topk", "gated", *RANKED_BY_BATCH])
def test_what_saelens_trained_loads_here(name, lens, tmp_path):
    config = {} if name == "gated" else {"k": 6}
    if name == "matryoshka_batchtopk":
        config["matryoshka_widths"] = [16, 64, 128]
    theirs = their_training_sae(lens, name, **config)
    if name in RANKED_BY_BATCH:
        theirs.topk_threshold += 2**-7
    theirs.save_inference_model(tmp_path)
    ours = sae.load(tmp_path)
    check_equal(ours, lens.SAE.load_from_disk(tmp_path))
    assert ours.architecture == name
    if name in RANKED_BY_BATCH:
        assert ours.k == 6 and ours.threshold == 2**-7
    if "matryoshka_widths" in config:
        assert ours.widths == (16, 64, 128)


def test_thresholds_of_their_own_make_it_jumprelu(tmp_path):
    model = make("batchtopk")
    sae.save(model, tmp_path)
    tensors = load_file(tmp_path / sae.WEIGHTS)
    tensors["threshold"][3] *= 2
    save_file(tensors, tmp_path / sae.WEIGHTS)
    loaded = sae.load(tmp_path)
    assert type(loaded) is sae.JumpReLUSAE
    assert torch.equal(loaded.threshold, tensors["threshold"])


def check_equal(ours, theirs):
    x = points()
    with torch.no_grad():
        codes = ours.encode(x)
        assert codes.any() and torch.equal(codes, theirs.encode(x))
        assert torch.equal(ours(x), theirs(x))
    assert ours.hook_point == HOOK


def step_loss(theirs, x):
    from sae_lens.saes.sae import TrainStepInput

    coefficients = {
        name: getattr(part, "value", part)
        for name, part in theirs.get_coefficients().items()
    }
    given = TrainStepInput(x, coefficients, None, 0, False)
    return theirs.training_forward_pass(given)


CONFIGS = {
    "standard": {"l1_coefficient": 1.0},
    "topk": {"k": 5, "rescale_acts_by_decoder_norm": False},
    "batchtopk": {"k": 5, "rescale_acts_by_decoder_norm": False},
    "jumprelu": {"l0_coefficient": 0.7, "jumprelu_bandwidth": 0.5},
    "gated": {"l1_coefficient": 1.0},
    "matryoshka_batchtopk": {
        "k": 5,
        "rescale_acts_by_decoder_norm": False,
        "matryoshka_widths": [16, 64, 128],
    },
    "jumprelu quadratic": {
        "l0_coefficient": 0.7,
        "jumprelu_bandwidth": 0.5,
        "jumprelu_sparsity_loss_mode": "quadratic",
        "target_l0": 9.0,
    },
}
OPTIONS = {
    "jumprelu": {"l0": 0.7, "bandwidth": 0.5},
    "jumprelu quadratic": {"l0": 0.7, "bandwidth": 0.5, "target_l0": 9.0},
    "matryoshka_batchtopk": {"widths": [16, 64, 128]},
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_training_step_is_that_of_saelens(case, lens):
    """But for what changes the length of a decoder row, projected out.

    SAELens' L1 terms are weighted by these lengths, and the decoder of its
    gated auxiliary loss is not frozen as it is in the paper.
    """
    name = case.split()[0]
    ours = make(name, **OPTIONS.get(case, {}))
    theirs = their_training_sae(lens, name, **CONFIGS[case])
    own = {n: part.detach().clone() for n, part in ours.named_parameters()}
    theirs.load_state_dict(own, strict=False)
    x = points(40)
    output = step_loss(theirs, x)
    output.loss.backward()
    result = ours.gradients(x)
    close = torch.testing.assert_close
    close(result.error, (output.sae_out - x).detach(), atol=1e-4, rtol=1e-4)
    theirs.W_dec.grad -= along(theirs.W_dec.grad, own["W_dec"])
    checked = result.gradients._asdict()
    checked["W_dec"] = checked["W_dec"] - along(checked["W_dec"], own["W_dec"])
    if name == "gated":
        del checked["W_dec"], checked["b_dec"]
    for part, gradient in checked.items():
        expected = getattr(theirs, part).grad
        assert expected.any()
        close(gradient, expected, atol=2e-4, rtol=1e-3, msg=part)


def along(gradient, rows):
    return (gradient * rows).sum(1, keepdim=True) * rows


def openai_state(d_in=16, d_sae=128, k=7):
    """Random weights in the format of OpenAI's v5 files."""
    random = torch.Generator().manual_seed(8)

    def draw(*shape):
        return torch.randn(*shape, generator=random)

    return {
        "pre_bias": draw(d_in) * 0.2,
        "latent_bias": draw(d_sae) * 0.2,
        "encoder.weight": draw(d_sae, d_in),
        "decoder.weight": draw(d_in, d_sae),
        "stats_last_nonzero": torch.zeros(d_sae, dtype=torch.long),
        "latents_activation_frequency": torch.ones(d_sae),
        "latents_mean_square": torch.zeros(d_sae),
        "activation": "TopK",
        "activation_state_dict": {"k": k, "postact_fn": "ReLU"},
    }


def test_openai_v5_matches_saelens_topk_with_layer_norm(lens, tmp_path):
    state = openai_state()
    torch.save(state, tmp_path / "5.pt")
    ours = sae.load_openai(tmp_path / "5.pt", HOOK)
    theirs = lens.TopKSAE(
        lens.TopKSAEConfig(
            d_in=16, d_sae=128, k=7, normalize_activations="layer_norm"
        )
    )
    theirs.load_state_dict(
        {
            "W_enc": state["encoder.weight"].T.contiguous(),
            "b_enc": state["latent_bias"],
            "W_dec": state["decoder.weight"].T.contiguous(),
            "b_dec": state["pre_bias"],
        }
    )
    check_equal(ours, theirs)
    assert (ours.encode(points()) > 0).sum(1).max() == 7
    sae.save(ours, tmp_path)
    check_equal(ours, lens.SAE.load_from_disk(tmp_path))


def test_openai_v5_by_its_definition(tmp_path):
    state = openai_state()
    torch.save(state, tmp_path / "5.pt")
    ours, x = sae.load_openai(tmp_path / "5.pt", HOOK), points()
    mean = x.mean(1, keepdim=True)
    deviation = x.std(1, keepdim=True)
    normal = (x - mean) / (deviation + 1e-5)
    z = (normal - state["pre_bias"]) @ state["encoder.weight"].T
    top = (z + state["latent_bias"]).topk(7)
    f = torch.zeros_like(z).scatter(1, top.indices, top.values.relu())
    torch.testing.assert_close(ours.encode(x), f)
    rebuilt = f @ state["decoder.weight"].T + state["pre_bias"]
    rebuilt = rebuilt * deviation + mean
    torch.testing.assert_close(ours(x), rebuilt)
    torch.testing.assert_close(ours.decode(f, x), rebuilt)
    with pytest.raises(InputError, match=r"decode\(f, x\)"):
        ours.decode(f)


def openai_without(name):
    return {n: part for n, part in openai_state().items() if n != name}


@pytest.mark.parametrize(
    "content, said",
    [
        (openai_without("latent_bias"), "lacks 'latent_bias'"),
        (openai_without("activation"), "lacks 'activation'"),
        (openai_state() | {"activation": "ReLU"}, "the activation 'ReLU'"),
        (openai_state() | {"pre_bias": torch.zeros(3)}, r"b_dec .* \[3\]"),
        (openai_state(k=500), "between 1 and d_sae = 128, not 500"),
        (torch.zeros(3), "no state dict of an OpenAI SAE"),
    ],
)
def test_bad_openai_files_are_refused(content, said, tmp_path):
    torch.save(content, tmp_path / "5.pt")
    with pytest.raises(InputError, match=said):
        sae.load_openai(tmp_path / "5.pt", HOOK)


def test_no_openai_file_or_another(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        sae.load_openai(tmp_path / "5.pt", HOOK)
    (tmp_path / "5.pt").write_text("not a tensor")
    with pytest.raises(InputError, match="no state dict of an OpenAI SAE"):
        sae.load_openai(tmp_path / "5.pt", HOOK)


def edit(folder, config=None, drop=(), **tensors):
    path = folder / sae.CONFIG
    content = json.loads(path.read_text()) | (config or {})
    for name in drop:
        content.pop(name)
    path.write_text(json.dumps(content))
    if tensors:
        found = load_file(folder / sae.WEIGHTS) | tensors
        found = {n: part for n, part in found.items() if part is not None}
        save_file(found, folder / sae.WEIGHTS)


BAD = {
    "unknown": ({"config": {"architecture": "topks"}}, "mean 'topk'"),
    "no tensor": ({"b_enc": None}, "lack 'b_enc'"),
    "shape": (
        {"W_dec": torch.zeros(3, 16)},
        r"W_dec .* has shape \[3, 16\], its config says \[128, 16\]",
    ),
    "extra": ({"scaling_factor": torch.ones(1)}, "'scaling_factor'"),
    "no width": ({"drop": ["d_in"]}, "lacks 'd_in'"),
    "no k": ({"drop": ["k"]}, "does not say k"),
    "old": ({"drop": ["metadata"]}, "before its version 6"),
    "no hook": ({"config": {"metadata": {}}}, "which hook point"),
    "heads": ({"config": {"reshape_activations": "hook_z"}}, "a head"),
    "norm": (
        {"config": {"normalize_activations": "constant_norm_rescale"}},
        "Accepted: none, layer_norm",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folders_are_refused_in_one_sentence(case, tmp_path):
    sae.save(make("topk"), tmp_path)
    change, said = BAD[case]
    edit(tmp_path, **change)
    with pytest.raises(InputError, match=said) as caught:
        sae.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [sae.CONFIG, sae.WEIGHTS])
def test_a_missing_or_damaged_file_is_named(name, tmp_path):
    sae.save(make("topk"), tmp_path)
    (tmp_path / name).write_bytes(b"{ not this")
    with pytest.raises(InputError, match="damaged"):
        sae.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"holds no {name}"):
        sae.load(tmp_path)


def test_equal_saes_give_equal_bytes_and_no_leftovers(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        sae.save(make("matryoshka_batchtopk"), tmp_path / folder)
    for name in (sae.CONFIG, sae.WEIGHTS):
        first, second = (tmp_path / f / name for f in "ab")
        assert first.read_bytes() == second.read_bytes()
    names = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert names == [sae.CONFIG, sae.WEIGHTS]
