"""Pretrained language models, from a hub or a folder.

TransformerLens' ``TransformerBridge`` runs the Hugging Face model itself
and gives its hook points TransformerLens' names.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch

from helpers.devices import find_device
from helpers.errors import InputError
from helpers.pretrained.folders import CONFIG, find
from helpers.pretrained.names import base
from helpers.pretrained.vocabulary import (
    Vocabulary,
    load_original,
    load_vocabulary,
)

CAUSAL = ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True)
class Pretrained:
    """A language model, its tokenizer, and how it was loaded."""

    name: str  # as it was asked for
    folder: Path
    model: object  # TransformerBridge: evaluation mode, no gradients
    vocabulary: Vocabulary
    center_writing_weights: bool

    def check_hook_point(self, hook_point: str) -> None:
        """Raise InputError, naming the nearest, if there is no such one."""
        known = self.model.hook_dict
        if hook_point not in known:
            close = get_close_matches(hook_point, known, n=4, cutoff=0)
            raise InputError(
                f"{self.name} has no hook point {hook_point!r}; the nearest "
                f"are {', '.join(close)}"
            )


def load(
    name: str,
    *,
    center_writing_weights: bool = False,
    context: int | None = None,
    control: str = "",
    seed: int = 0,
    device: torch.device | None = None,
) -> Pretrained:
    """A model by its name on the hub or the path of a folder, in float32.

    What is not in the cache is downloaded. ``center_writing_weights``: the
    mean is taken from all that is written to the residual stream; which SAE
    needs that says ``PublishedSAE``. ``context`` shortens the rows it is
    used with. ``control``: "untrained" draws new weights as the model's
    authors did, "shuffled" permutes the entries of every matrix; ``seed``
    draws either. Token numbers are those of its ``vocabulary``. Raises
    InputError if it cannot be had, or is no causal language model that
    TransformerLens knows.
    """
    folder = find(name)
    check_architecture(name, folder)
    vocabulary = load_vocabulary(folder)
    network = _network(name, folder, control, seed)
    rows = network.get_input_embeddings().num_embeddings
    if vocabulary.size > rows:
        raise InputError(
            f"the tokenizer of {name} has {vocabulary.size} tokens, the "
            f"model only {rows}: it is another model's tokenizer"
        )
    swap_tokens(network, vocabulary.bos)
    model = _bridge(network.to(device or find_device()), folder)
    _process(model, name, center_writing_weights)
    _shorten(model, name, context)
    return Pretrained(name, folder, model, vocabulary, center_writing_weights)


def check_architecture(name: str, folder: Path) -> None:
    """Raise InputError unless TransformerLens can run it."""
    from transformer_lens.factories.architecture_adapter_factory import (
        SUPPORTED_ARCHITECTURES,
    )

    try:
        config = json.loads((folder / CONFIG).read_text())
        found = (config.get("architectures") or ["none"])[0]
    except (ValueError, AttributeError):
        raise InputError(f"the {CONFIG} of {name} is damaged") from None
    causal = [a for a in SUPPORTED_ARCHITECTURES if a.endswith(CAUSAL)]
    if found not in causal:
        close = get_close_matches(found, causal, n=3, cutoff=0)
        raise InputError(
            f"{name} is a {found}, which TransformerLens does not know as a "
            f"causal language model; the nearest that it knows are "
            f"{', '.join(close)}"
        )


def swap_tokens(network, bos: int) -> None:
    """Let token ``bos`` and token 0 change places in a Hugging Face model:
    the rows of its embedding and unembedding (once if they are one)."""
    output = network.get_output_embeddings()
    tables = [network.get_input_embeddings().weight, output.weight]
    if getattr(output, "bias", None) is not None:
        tables.append(output.bias)
    with torch.no_grad():
        for table in {id(t): t for t in tables}.values():
            table[[0, bos]] = table[[bos, 0]]


def _network(name: str, folder: Path, control: str, seed: int):
    """The Hugging Face model, float32, or a control of it."""
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM

    how = {"dtype": torch.float32, "attn_implementation": "eager"}
    with _quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            if control == "untrained":
                config = AutoConfig.from_pretrained(folder)
                return AutoModelForCausalLM.from_config(config, **how)
            found = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, **how
            )
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"the weights of {name} in {folder} cannot be read "
                f"({first_line(error)}); `make fetch` finds damaged files "
                "and loads them anew"
            ) from error
        return _shuffled(found) if control == "shuffled" else found


@torch.no_grad()
def _shuffled(network):
    """The entries of every matrix in a random order, in place."""
    for value in network.parameters():  # one that is tied comes once
        if value.dim() > 1:
            order = torch.randperm(value.numel())
            value.copy_(value.flatten()[order].view_as(value))
    return network


def _bridge(network, folder: Path):
    from transformer_lens.model_bridge import TransformerBridge

    with _quiet():
        model = TransformerBridge.boot_transformers(
            str(folder), hf_model=network, tokenizer=load_original(folder),
            device=network.device,
        )  # fmt: skip
    model.tokenizer = None  # with one it would mask what it takes for padding
    return model.eval().requires_grad_(False)


def _process(model, name: str, center: bool) -> None:
    if center and model.cfg.normalization_type not in ("LN", "LNPre"):
        raise InputError(
            f"{name} normalises without taking the mean (RMS norm), so "
            "center_writing_weights would change it; leave it out"
        )
    with _quiet():
        model.enable_compatibility_mode(
            disable_warnings=True, no_processing=not center, fold_ln=False,
            center_unembed=False, fold_value_biases=False,
        )  # fmt: skip
    model.requires_grad_(False)


def _shorten(model, name: str, context: int | None) -> None:
    longest = model.cfg.n_ctx
    if context is not None and not 2 <= context <= longest:
        raise InputError(
            f"{name} reads rows of 2 to {longest} tokens, not {context}"
        )
    model.cfg.n_ctx = context or longest


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Warnings and progress bars of the libraries, which say nothing to a
    reader and would stay in a chapter, kept back."""
    import logging
    import warnings

    from transformers.utils import logging as bars

    before, logger = bars.is_progress_bar_enabled(), logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    bars.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if before:
            bars.enable_progress_bar()


def first_line(error: Exception) -> str:
    """What an error of a library says first."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def same_model(one: str, other: str) -> bool:
    """Whether two names (or folders) mean the same model."""
    return base(one) == base(other)
