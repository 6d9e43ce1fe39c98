"""SAEs: what they compute, refuse, save and load."""

import pytest
import torch

from helpers import sae
from helpers.errors import InputError
from helpers.sae.batchtopk import KEPT

HOOK = "blocks.0.mlp.hook_post"


def points(count=20, d_in=6):
    random = torch.Generator().manual_seed(3)
    return torch.randn(count, d_in, generator=random)


def test_topk_by_hand():
    model = sae.TopKSAE(2, 3, HOOK, k=1)
    with torch.no_grad():
        model.W_enc.copy_(torch.tensor([[1.0, 0, -1], [0, 1, -1]]))
        model.b_enc.copy_(torch.tensor([0, 0.5, 0]))
        model.b_dec.copy_(torch.tensor([1.0, 0]))
        model.W_dec.copy_(torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8]]))
        # x - b_dec = [2, 1] -> pre [2, 1.5, -3]; [-2, 0] -> [-2, 0.5, 2]
        x = torch.tensor([[3.0, 1], [-1, 0]])
        f = model.encode(x)
    assert f.tolist() == [[2, 0, 0], [0, 0, 2]]
    expected = torch.tensor([[3.0, 0], [2.2, 1.6]])
    torch.testing.assert_close(model.decode(f).detach(), expected)


def test_l1_by_hand():
    model = sae.L1SAE(1, 2, HOOK)
    with torch.no_grad():
        model.W_enc.copy_(torch.tensor([[2.0, -1]]))
        model.b_enc.copy_(torch.tensor([-1.0, 0]))
        f = model.encode(torch.tensor([[2.0], [-3]]))
    assert f.tolist() == [[3, 0], [0, 3]]


def test_topk_starts_tied_and_l1_does_not():
    topk, l1 = sae.TopKSAE(6, 12, HOOK, 3), sae.L1SAE(6, 12, HOOK)
    assert torch.equal(topk.W_enc, topk.W_dec.T)
    assert not torch.equal(l1.W_enc, l1.W_dec.T)
    for model in (topk, l1):
        lengths = model.W_dec.norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones(12))


def every(d_in=6, expansion=4, k=5):
    """One SAE of each architecture, every parameter off its start."""
    made = []
    for name in sae.ARCHITECTURES:
        model = sae.build(
            name, d_in, HOOK, expansion=expansion, k=k, l1=2.0, seed=0
        )
        with torch.no_grad():
            for part_name, part in model.named_parameters():
                if part.ndim == 1:
                    part += torch.linspace(-0.5, 0.5, len(part))
                if part_name == "threshold":
                    part.clamp_(min=0)
        if name in RANKED_BY_BATCH:
            model._follow(torch.tensor(0.25, dtype=torch.float64))
        made.append(model)
    return made


RANKED_BY_BATCH = {"batchtopk", "matryoshka_batchtopk"}


def name_of(model):
    return model.architecture


def test_all_six_are_here():
    assert sorted(sae.ARCHITECTURES) == [
        "batchtopk",
        "gated",
        "jumprelu",
        "matryoshka_batchtopk",
        "standard",
        "topk",
    ]


@pytest.mark.parametrize("model", every(), ids=name_of)
def test_folding_the_scale_is_exact(model):
    with torch.no_grad():
        x, scale = points(), 4.0
        f, rebuilt = model.encode(x * scale), model(x * scale)
        model.fold_scale(scale)
        torch.testing.assert_close(model.encode(x), f / scale)
        torch.testing.assert_close(model(x), rebuilt / scale)
    assert 0 < (f > 0).float().mean() < 0.9
    lengths = model.W_dec.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(24))


@pytest.mark.parametrize("model", every(), ids=name_of)
def test_saves_and_loads_bit_for_bit(model, tmp_path):
    sae.save(model, tmp_path)
    loaded = sae.load(tmp_path)
    assert type(loaded) is type(model)
    assert loaded.hook_point == loaded.output_hook_point == HOOK
    assert torch.equal(loaded.encode(points()), model.encode(points()))
    assert torch.equal(loaded(points()), model(points()))
    assert not any(part.requires_grad for part in loaded.parameters())
    assert loaded.config() == model.config()


@pytest.mark.parametrize("model", every(), ids=name_of)
def test_a_checkpoint_of_the_state_continues_the_same(model):
    again = sae.build(
        model.architecture, 6, HOOK, expansion=4, k=5, l1=2.0, seed=9
    )
    model.gradients(points())
    again.load_state_dict(model.state_dict())
    x = points(30)
    expected, found = model.gradients(x), again.gradients(x)
    for a, b in zip(expected.gradients, found.gradients, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(model.encode(x), again.encode(x))


@pytest.mark.parametrize("model", every(), ids=name_of)
def test_reads_any_number_of_leading_dimensions(model):
    x = points(12).view(3, 4, 6)
    flat = model.encode(x.flatten(0, 1))
    torch.testing.assert_close(model.encode(x).flatten(0, 1), flat)


def test_jumprelu_by_hand():
    model = sae.JumpReLUSAE(1, 2, HOOK)
    with torch.no_grad():
        model.W_enc.copy_(torch.tensor([[2.0, -1]]))
        model.threshold.copy_(torch.tensor([4.0, -1]))
        f = model.encode(torch.tensor([[2.0], [2.5], [-3]]))
    # at the threshold is not above it; below 0 it lets nothing negative in
    assert f.tolist() == [[0, 0], [5, 0], [0, 3]]


def test_gated_by_hand():
    model = sae.GatedSAE(1, 2, HOOK)
    with torch.no_grad():
        model.W_enc.copy_(torch.tensor([[1.0, 1]]))
        model.r_mag.copy_(torch.tensor([2.0, 1]).log())
        model.b_gate.copy_(torch.tensor([-2.0, 0]))
        model.b_mag.copy_(torch.tensor([1.0, -3]))
        f = model.encode(torch.tensor([[3.0], [1], [4]]))
    # gate [1, 3], mag [7, 0]; gate [-1, 1], mag [3, -2]; gate [2, 4], mag 9, 1
    torch.testing.assert_close(f, torch.tensor([[7.0, 0], [0, 0], [9, 1]]))


def smallest_kept(model, x):
    z = model.pre_activations(x).relu().flatten()
    return z.topk(model.k * len(x)).values.min().item()


@pytest.mark.parametrize("name", sorted(RANKED_BY_BATCH))
def test_the_threshold_is_unbiased_from_the_first_step(name):
    model = sae.build(name, 6, HOOK, expansion=4, k=3, l1=0, seed=0)
    assert model.threshold == 0
    found = []
    for seed in range(5):
        x = torch.randn(64, 6, generator=torch.manual_seed(seed))
        found.append(smallest_kept(model, x))
        model.gradients(x)
        low, high = min(found), max(found)
        # float64 sums, read as float32
        assert low * (1 - 1e-6) <= model.threshold <= high * (1 + 1e-6)
        weights = [KEPT**age for age in reversed(range(len(found)))]
        mean = sum(w * v for w, v in zip(weights, found, strict=True))
        mean /= sum(weights)
        assert model.threshold.item() == pytest.approx(mean, rel=1e-6)
    assert high > low * 1.01


def sparse_data(count, seed, d_in=24, features=48):
    """Sums of few unit directions, each on with a probability of 8%."""
    made = torch.Generator().manual_seed(0)
    rows = torch.randn(features, d_in, generator=made)
    random = torch.Generator().manual_seed(seed)
    on = torch.rand(count, features, generator=random) < 0.08
    size = torch.rand(count, features, generator=random) + 0.5
    return (on * size) @ (rows / rows.norm(dim=1, keepdim=True)) * 2.5


def train(model, steps=150, batch=256):
    """Project, step, renormalise; learning rate down to 0 at the end."""
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        result = model.gradients(sparse_data(batch, step + 1))
        for name, gradient in result.gradients._asdict().items():
            getattr(model, name).grad = gradient
        rows = model.W_dec.detach()
        along = (model.W_dec.grad * rows).sum(1, keepdim=True)
        model.W_dec.grad -= along * rows
        adam.param_groups[0]["lr"] = 3e-3 * min(1, 3 * (1 - step / steps))
        adam.step()
        with torch.no_grad():
            model.W_dec /= model.W_dec.norm(dim=1, keepdim=True)


def quality(model, x):
    """Held-out L0 and share of variance not explained."""
    with torch.no_grad():
        f = model.encode(x)
        error = (model.decode(f) - x).pow(2).sum()
    total = (x - x.mean(0)).pow(2).sum()
    return (f > 0).sum(1).float().mean().item(), (error / total).item()


@pytest.mark.parametrize("name", sorted(sae.ARCHITECTURES))
def test_each_learns_sparse_codes(name):
    options = {"target_l0": 6.0, "l0": 0.3} if name == "jumprelu" else {}
    l1 = 2.0 if name == "gated" else 0.6
    model = sae.build(
        name, 24, HOOK, expansion=4, k=6, l1=l1, seed=0, **options
    )
    x = sparse_data(4000, 10_000)
    train(model)
    l0, fvu = quality(model, x)
    assert fvu < 0.35 and l0 < 24  # of 96; about half are on at the start
    if name in RANKED_BY_BATCH:
        assert l0 == pytest.approx(6, rel=0.05)


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("topkk", {}, "unknown SAE architecture 'topkk'; did you mean 'topk'"),
        ("topk", {"k": 25}, "between 1 and d_sae = 24, not 25"),
        ("batchtopk", {"k": 0}, "between 1 and d_sae = 24, not 0"),
        ("matryoshka", {"k": 99}, "between 1 and d_sae = 24, not 99"),
        ("matryoshka", {"widths": [4, 4, 24]}, r"not \[4, 4, 24\]"),
        ("matryoshka", {"widths": [4, 20]}, r"to d_sae = 24, not \[4, 20\]"),
        ("jumprelu", {"target_l0": 30}, "0 and d_sae = 24, not 30"),
        ("jumprelu", {"bandwidth": 0}, "bandwidth must be more than 0"),
        ("jumprelu", {"bandwith": 1}, "did you mean 'bandwidth'"),
        ("l1", {"l1": -1.0}, "l1 must be 0 or more, not -1"),
        ("gated", {"l1": float("nan")}, "l1 must be 0 or more, not nan"),
        ("topk", {"expansion": 0}, "must be 1 or more, not 6 and 0"),
    ],
)
def test_build_refuses_in_one_sentence(name, options, said):
    given = {"expansion": 4, "k": 5, "l1": 1.0, "seed": 0} | options
    with pytest.raises(InputError, match=said):
        sae.build(name, 6, HOOK, **given)


def test_build_knows_the_short_names_and_the_options():
    given = {"expansion": 4, "k": 5, "l1": 1.5, "seed": 1}
    assert sae.build("l1", 6, HOOK, **given).l1 == 1.5
    nested = sae.build("matryoshka", 6, HOOK, **given, widths=[3, 24])
    assert type(nested) is sae.MatryoshkaSAE and nested.widths == (3, 24)
    wide = sae.build("matryoshka", 64, HOOK, **given)
    assert wide.widths == (8, 24, 56, 120, 256)
    revived = {n for n, kind in sae.ARCHITECTURES.items() if kind.revives}
    assert revived == {"topk", *RANKED_BY_BATCH}


def test_refuses_another_hook_point():
    model = sae.L1SAE(6, 24, HOOK)
    model.check_hook_point(HOOK)
    with pytest.raises(InputError, match="trained on blocks.0.mlp.hook_post"):
        model.check_hook_point("blocks.1.mlp.hook_post")
    with pytest.raises(InputError, match="reads 6 numbers a token"):
        model.encode(torch.zeros(1, 7))


def test_refuses_an_impossible_k():
    with pytest.raises(InputError, match="between 1 and d_sae = 24, not 25"):
        sae.TopKSAE(6, 24, HOOK, 25)


@pytest.mark.parametrize("convention", ["sum", "mean", "batch"])
def test_l1_conventions_give_parallel_gradients(convention):
    n, batch, value = 6, 20, 0.03
    model, x = sae.L1SAE(n, 24, HOOK), points()
    f = model.encode(x)
    square, total = (model.decode(f) - x).pow(2), f.sum()
    theirs = {
        "sum": square.sum(1).mean() + value * total / batch,
        "mean": square.mean() + value * total / batch,
        "batch": square.sum(1).mean() + value * total,
    }[convention]
    l1 = sae.l1_to_sum_units(value, convention, n, batch)
    ours = square.sum(1).mean() + l1 * total / batch
    weights = list(model.parameters())
    scale = n if convention == "mean" else 1
    for a, b in zip(
        torch.autograd.grad(theirs, weights, retain_graph=True),
        torch.autograd.grad(ours, weights),
        strict=True,
    ):
        torch.testing.assert_close(a * scale, b, atol=1e-6, rtol=1e-4)


def test_unknown_convention():
    with pytest.raises(InputError, match="Accepted: sum, mean, batch"):
        sae.l1_to_sum_units(1, "sums", 1, 1)
