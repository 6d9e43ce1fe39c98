"""SAEs on disk: the SAELens directory format, and OpenAI's files.

``cfg.json`` and ``sae_weights.safetensors`` hold the inference form, which
``sae_lens.SAE.load_from_disk`` encodes with to the same bits. As SAELens
does, BatchTopK and Matryoshka are written as JumpReLU SAEs whose metadata
name their origin; from it they are made again here. Checkpoints of a
training run are no business of this module: they hold ``state_dict``.
"""

import json
import pickle
from dataclasses import fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from helpers import artifacts
from helpers.errors import InputError, unknown
from helpers.sae.architectures import ARCHITECTURES
from helpers.sae.base import SAE, Convention
from helpers.sae.topk import TopKSAE

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
# Accepted values. The scale of "expected_average_only_in" is in the weights.
NORMALISED = ("none", "layer_norm", "expected_average_only_in")
OPENAI = {
    "encoder.weight": "W_enc",
    "latent_bias": "b_enc",
    "decoder.weight": "W_dec",
    "pre_bias": "b_dec",
}


def save(sae: SAE, folder: Path) -> None:
    """Write ``cfg.json`` and ``sae_weights.safetensors`` (SAELens)."""
    tensors = {
        name: value.detach().cpu().contiguous()
        for name, value in sorted(sae.tensors().items())
    }
    with artifacts.replacing(Path(folder) / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    artifacts.write_json(Path(folder) / CONFIG, sae.config())


def load(folder: Path, hook_point: str | None = None) -> SAE:
    """Read what ``save`` or SAELens wrote, for inference: no gradients.

    ``hook_point`` is only for a ``cfg.json`` that names none. Raises
    InputError for a missing or damaged file, an unknown architecture, or
    weights that do not fit it.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} holds no {name}; an SAE is a folder with {CONFIG} "
                f"and {WEIGHTS}"
            )
    try:
        config = json.loads((folder / CONFIG).read_text())
        tensors = load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise InputError(
            f"{folder} holds a damaged {CONFIG} or {WEIGHTS} ({error})"
        ) from error
    return _assemble(config, tensors, str(folder), hook_point)


def from_sae_lens(model, hook_point: str | None = None) -> SAE:
    """An SAE that SAELens holds in memory, such as a published one.

    ``model``: ``sae_lens.SAE``, from ``from_pretrained`` for instance.
    Raises InputError as ``load`` does.
    """
    tensors = {name: part.cpu() for name, part in model.state_dict().items()}
    return _assemble(
        model.cfg.to_dict(), tensors, "the SAELens SAE", hook_point
    )


def load_openai(file: Path, hook_point: str) -> SAE:
    """A TopK SAE of OpenAI's ``sparse_autoencoder`` (v5), for inference.

    ``file`` is what ``torch.save`` made of its state dict. Like there, TopK
    implies that each token is normalised first (layer norm). The file does
    not name the ``hook_point``. Raises InputError if it is damaged, or
    holds another activation.
    """
    try:
        found = dict(torch.load(file, map_location="cpu", weights_only=True))
        kind, details = found["activation"], found["activation_state_dict"]
        tensors = {ours: found[theirs] for theirs, ours in OPENAI.items()}
        d_sae, d_in = tensors["W_enc"].shape
    except FileNotFoundError as error:
        raise InputError(f"there is no file {file}") from error
    except KeyError as error:
        raise InputError(f"{file} lacks {error.args[0]!r}") from error
    except (RuntimeError, TypeError, ValueError, IndexError, EOFError,
            pickle.UnpicklingError) as error:  # fmt: skip
        raise InputError(f"{file} is no state dict of an OpenAI SAE") from error
    if kind != "TopK" or details.get("postact_fn", "ReLU") != "ReLU":
        raise InputError(
            f"{file} uses the activation {kind!r} with {details!r}; only "
            "TopK followed by ReLU is read (v5)"
        )
    config = {
        "architecture": TopKSAE.architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "k": details.get("k"),
        "normalize_activations": "layer_norm",
        "metadata": {},
    }
    for name in ("W_enc", "W_dec"):
        tensors[name] = tensors[name].T
    return _assemble(config, tensors, str(file), hook_point)


def _assemble(
    config: dict, tensors: dict, source: str, hook_point: str | None
) -> SAE:
    """The SAE that a SAELens config and its weights describe."""
    if not isinstance(config, dict) or "metadata" not in config:
        raise InputError(
            f"the config of {source} has no metadata; if SAELens wrote it "
            "before its version 6, load and save it there once more"
        )
    hook_point = config["metadata"].get("hook_name") or hook_point
    if not hook_point:
        raise InputError(
            f"{source} does not say on which hook point it was trained; "
            "give hook_point"
        )
    missing = [n for n in ("architecture", "d_in", "d_sae") if n not in config]
    if missing:
        raise InputError(f"the config of {source} lacks {missing[0]!r}")
    sae = _make(config, tensors, source, hook_point)
    sae.convention = _convention(config, source)
    expected = {name: part.shape for name, part in sae.tensors().items()}
    _check_shapes(tensors, expected, source)
    sae.restore(
        {name: part.float().contiguous() for name, part in tensors.items()}
    )
    return sae.requires_grad_(False).eval()


def _make(config: dict, tensors: dict, source: str, hook_point: str) -> SAE:
    """An SAE of the right class and shape; its weights come next."""
    metadata = config["metadata"]
    name, details = config["architecture"], config
    if name not in ARCHITECTURES:
        raise unknown("SAE architecture", name, ARCHITECTURES)
    origin = metadata.get("training_architecture")
    if name == "jumprelu" and _is_batchtopk(origin, tensors):
        name = origin
        details = metadata.get("training_architecture_details") or {}
    options = {}
    if "topk" in name:
        if not details.get("k"):
            raise InputError(f"the config of {source} does not say k")
        options["k"] = details["k"]
    if "matryoshka_widths" in details:
        options["widths"] = details["matryoshka_widths"]
    kind = ARCHITECTURES[name]
    return kind(config["d_in"], config["d_sae"], hook_point, **options)


def _is_batchtopk(origin: str | None, tensors: dict) -> bool:
    """Whether a JumpReLU file is one threshold from a batch's top k."""
    threshold = tensors.get("threshold")
    known = origin in ARCHITECTURES and "batchtopk" in origin
    return (
        known
        and threshold is not None
        and bool((threshold == threshold.flatten()[0]).all())
    )


def _convention(config: dict, source: str) -> Convention:
    """How the SAE differs from ours; InputError if it does in other ways."""
    given = {
        field.name: config.get(field.name, field.default)
        for field in fields(Convention)
    }
    if given["normalize_activations"] not in NORMALISED:
        raise unknown(
            f"normalize_activations in {source}",
            given["normalize_activations"],
            NORMALISED,
        )
    if given["normalize_activations"] != "layer_norm":
        given["normalize_activations"] = "none"
    if config.get("reshape_activations", "none") != "none":
        raise InputError(
            f"{source} reads one vector a head "
            f"({config['reshape_activations']}), which is not supported"
        )
    return Convention(**given)


def _check_shapes(tensors: dict, expected: dict, source: str) -> None:
    for name, shape in expected.items():
        if name not in tensors:
            raise InputError(f"the weights of {source} lack {name!r}")
        if tensors[name].shape != shape:
            raise InputError(
                f"{name} in {source} has shape {list(tensors[name].shape)}, "
                f"its config says {list(shape)}"
            )
    for name in tensors:
        if name not in expected:
            raise unknown(f"tensor in {source}", name, sorted(expected))
