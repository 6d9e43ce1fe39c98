"""SAEs beside others: how each was made, its neighbours, its controls."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import artifacts, paths
from helpers.errors import InputError, unknown

if TYPE_CHECKING:
    from helpers.sae import SAE

CONTROLS = ("random", "shuffled")
KINDS = {  # as papers write them
    "topk": "TopK",
    "l1": "L1",
    "batchtopk": "BatchTopK",
    "matryoshka": "Matryoshka",
    "jumprelu": "JumpReLU",
    "gated": "Gated",
}


def recipe(path: Path) -> dict:
    """How an SAE's artifact was made, as ``train.make_saes`` takes it.

    Change an entry to make its neighbour. Of the architectures with options
    of their own these are not told apart from the settings.
    """
    return dict(artifacts.read_manifest(artifacts.require(path))["parameters"])


def siblings(profile: str, start: str, model: Path) -> dict[str, Path]:
    """The run's SAEs whose names begin with ``start``, made from ``model``.

    Name (without the beginning) -> artifact, in the order of the names. What
    an earlier run left, of another model, is not among them.
    """
    folder = paths.sae(profile, start).parent
    found, wanted = {}, artifacts.digest(model)
    for path in sorted(folder.glob(f"{start}*")):
        manifest = artifacts.read_manifest(path)
        if manifest and wanted in manifest["inputs"].values():
            found[path.name.removeprefix(start)] = path
    return found


def describe(path: Path) -> dict:
    """What sets an SAE apart, from its artifact's manifest.

    kind (as papers write it, or "random (control)"), expansion (latents for
    each number that it reads), aim (k, the L0 aimed at or the weight of the
    penalty; text), seed and activations (seen in training; 0 for a control).
    """
    made = recipe(path)
    kind = f"{made.get('control')} (control)"
    if "control" not in made:
        kind = KINDS.get(made["architecture"], made["architecture"])
    aims = {"target_l0": "L0 = {}", "k": "k = {}", "l1": "penalty {:g}"}
    aim = next(key for key in aims if made.get(key) is not None)
    return {
        "kind": kind,
        "expansion": made["expansion"],
        "aim": aims[aim].format(made[aim]),
        "seed": made["seed"],
        "activations": made.get("activations", 0),
    }


def neighbours(
    made: Mapping[str, Mapping],
    *,
    ks: Sequence[int] = (),
    penalties: Sequence[float] = (),
    budgets: Sequence[float] = (),
    seeds: int = 1,
) -> dict[str, dict]:
    """Recipes that differ in one setting from some that are there.

    ``made``: name -> recipe, with "topk-8x" and "l1" among them. From the
    first: other ``ks``, ``budgets`` (shares of its own) and ``seeds`` in
    all; from the second: other ``penalties``; from the widest: the first of
    the ks. The order of the text stays the same, for ``train.make_saes``.
    """
    base, l1 = made["topk-8x"], made["l1"]
    widest = max(made, key=lambda name: made[name]["expansion"])
    wanted = {f"topk-8x-k{k}": base | {"k": k} for k in ks}
    for k in ks[:1]:
        wanted[f"{widest}-k{k}"] = made[widest] | {"k": k}
    for weight in penalties:
        wanted[f"l1-penalty-{weight:g}"] = l1 | {"l1": weight}
    for share in budgets:
        seen = {"activations": int(share * base["activations"])}
        wanted[f"topk-8x-{share:g}-budget"] = base | seen
    for seed in range(1, seeds):
        new = {"seed": base["seed"] + seed}
        wanted[f"topk-8x-seed-{seed}"] = base | new
    return wanted


def make_control(
    profile: str, name: str, trained: Path, kind: str, seed: int = 0
) -> Path:
    """A TopK SAE of a trained one's shape that has learned nothing.

    ``random``: the weights with which training starts, random unit rows and
    the encoder their transpose. ``shuffled``: the entries of both matrices
    in a random order, the decoder's rows made unit again, so that each
    matrix keeps its distribution (as ``language_model.make_control`` does).
    The biases stay. InputError for another kind, or an SAE that is not TopK.
    """
    if kind not in CONTROLS:
        raise unknown("control", kind, CONTROLS)

    def make(folder: Path) -> None:
        from helpers import sae

        loaded = sae.load(artifacts.require(trained))
        if not isinstance(loaded, sae.TopKSAE):
            raise InputError(
                f"only a TopK SAE stays sparse without training, not "
                f"{loaded.architecture!r}"
            )
        weights = _control(loaded, kind, seed)
        loaded.restore(loaded.state_dict() | weights)
        sae.save(loaded, folder)

    known = recipe(trained)
    return artifacts.produce(
        paths.sae(profile, name),
        make,
        parameters={"control": kind, "seed": seed}
        | {key: known[key] for key in ("expansion", "k") if key in known},
        inputs=[trained],
    )


def _control(trained: "SAE", kind: str, seed: int) -> dict:
    """W_enc [d_in, d_sae] and W_dec [d_sae, d_in] of a control."""
    import torch

    if kind == "random":
        shape = trained.d_in, trained.d_sae, trained.hook_point, trained.k
        new = type(trained)(*shape, seed).state_dict()
        return {name: new[name] for name in ("W_enc", "W_dec")}
    random = torch.Generator().manual_seed(seed)

    def shuffle(part):
        order = torch.randperm(part.numel(), generator=random)
        return part.detach().flatten()[order].view_as(part)

    encoder, decoder = shuffle(trained.W_enc), shuffle(trained.W_dec)
    return {
        "W_enc": encoder, "W_dec": decoder / decoder.norm(dim=1)[:, None]
    }  # fmt: skip
