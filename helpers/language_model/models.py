"""Trained transformers on disk, and as HookedTransformers."""

import dataclasses
import json
import warnings
from pathlib import Path

import torch

from helpers import artifacts, paths
from helpers.devices import find_device
from helpers.errors import InputError, unknown
from helpers.language_model.transformer import (
    Architecture,
    Weights,
    initial_weights,
    is_matrix,
)

WEIGHTS, CONFIG = "model.safetensors", "config.json"
CONTROLS = ("untrained", "shuffled")
HOOK_POINT = "blocks.0.mlp.hook_post"  # where the chapters look


def load_language_model(path: Path, device: torch.device | None = None):
    """A ``HookedTransformer``: float32, evaluation mode, no gradients.

    It is on ``device``, by default the one that ``find_device`` finds, and
    has no tokenizer: give it token numbers. Of a pretrained model's artifact
    it is a ``TransformerBridge``. Raises InputError if the artifact is
    missing or damaged.
    """
    path = artifacts.require(path)
    config = load_config(path)
    if "pretrained" in config:
        from helpers.pretrained.models import load

        return load(**config["pretrained"], device=device).model
    return as_hooked(config["architecture"], load_weights(path), device)


def as_hooked(architecture: dict, weights: Weights, device=None):
    """Put weights into a TransformerLens ``HookedTransformer``."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    shape = Architecture(**architecture)
    config = HookedTransformerConfig(
        n_layers=shape.layers,
        d_model=shape.d_model,
        n_heads=shape.heads,
        d_head=shape.d_model // shape.heads,
        d_mlp=shape.d_mlp,
        n_ctx=shape.context,
        d_vocab=shape.vocab_size,
        act_fn="relu",
        normalization_type="LNPre",
        init_weights=False,
        device=str(device or find_device()),
    )
    with warnings.catch_warnings():  # 3.x announces its removal in 4.0
        warnings.filterwarnings("ignore", message="HookedTransformer is depr")
        model = HookedTransformer(config)
    expected = {name for name, _ in model.named_parameters()}
    if expected != set(weights):
        raise InputError("the saved weights are not those of this model")
    model.load_state_dict(weights, strict=False)
    return model.eval().requires_grad_(False)


def save(folder: Path, shape: Architecture, weights: Weights, **facts) -> None:
    """Write weights (float32, TransformerLens names) and config.json."""
    from safetensors.torch import save_file

    tensors = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    save_file(tensors, folder / WEIGHTS)
    config = {"architecture": dataclasses.asdict(shape), **facts}
    artifacts.write_json(folder / CONFIG, config)


def load_weights(path: Path) -> Weights:
    """The float32 weights of a saved model, on the CPU."""
    from safetensors.torch import load_file

    return load_file(path / WEIGHTS)


def load_config(path: Path) -> dict:
    """What ``save`` wrote beside the weights: architecture, seed, ..."""
    return json.loads((path / CONFIG).read_text())


def hook_point(path: Path) -> str:
    """The hook point at which the chapters look into a model: the neurons
    of the first layer, unless a pretrained model's artifact says another."""
    return load_config(artifacts.require(path)).get("hook_point", HOOK_POINT)


def written(model, hook_point: str, rows: torch.Tensor) -> torch.Tensor:
    """What directions at a hook point write to the residual stream.

    ``rows``: [n, d_in] -> [n, d_model]. Neurons and heads write through
    their output matrix, everything else is in the residual stream already.
    """
    block, _, end = hook_point.removeprefix("blocks.").partition(".")
    if end == "mlp.hook_post":
        return rows @ model.W_out[int(block)].to(rows)
    if end == "attn.hook_z":
        return rows @ model.W_O[int(block)].flatten(0, 1).to(rows)
    return rows


def make_control(profile: str, name: str, model: Path, seed: int = 0) -> Path:
    """Make a control of a trained model, as ``language_models/NAME``.

    ``untrained``: the weights that ``model`` started from. ``shuffled``: its
    trained weights, the entries of every weight matrix permuted (biases
    stay): each matrix keeps its distribution and loses what was learned,
    as in Towards Monosemanticity. ``seed`` draws the permutations.
    """
    if name not in CONTROLS:
        raise unknown("control", name, CONTROLS)

    def make(folder: Path) -> None:
        config = load_config(model)
        if "pretrained" in config:
            made = config["pretrained"] | {"control": name, "seed": seed}
            described = config | {"pretrained": made}
            artifacts.write_json(folder / CONFIG, described)
            return
        shape = Architecture(**config["architecture"])
        if name == "untrained":
            weights = initial_weights(shape, config["seed"])
        else:
            weights = shuffled_weights(load_weights(model), seed)
        save(folder, shape, weights, seed=config["seed"], control=name)

    return artifacts.produce(
        paths.language_model(profile, name),
        make,
        parameters={"control": name, "seed": seed},
        inputs=[model],
    )


def shuffled_weights(weights: Weights, seed: int) -> Weights:
    """The weights with the entries of each matrix in a random order."""
    generator = torch.Generator().manual_seed(seed)

    def shuffle(value):
        order = torch.randperm(value.numel(), generator=generator)
        return value.flatten()[order].view_as(value)

    return {
        name: shuffle(weights[name]) if is_matrix(name) else weights[name]
        for name in sorted(weights)
    }
