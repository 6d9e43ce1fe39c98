"""What the tests change in each process that torchrun starts.

Products are in float32, whatever the machine, and the language model is
read by the few lines below: importing TransformerLens takes ten seconds,
in each process.
"""

import json
from types import SimpleNamespace

import numpy as np
import torch

HOOK = "blocks.0.mlp.hook_post"
VOCABULARY, CONTEXT, D_MODEL, D_MLP = 30, 8, 16, 32


class Light:
    """One embedding and one ReLU layer behind TransformerLens' names."""

    def __init__(self, path):
        from safetensors.torch import load_file

        weights = load_file(path / "model.safetensors")
        table = weights["embed.W_E"] @ weights["blocks.0.mlp.W_in"]
        self.table = (20 * table).relu()
        self.cfg = SimpleNamespace(
            device="cpu", n_ctx=CONTEXT, act_fn="a table"
        )
        self.hook_dict = {HOOK: None}

    def run_with_hooks(self, rows, fwd_hooks, **_):
        for name, keep in fwd_hooks:
            keep(self.table[rows], SimpleNamespace(name=name))


def install(patch=setattr):
    """Change this process; ``patch`` as ``monkeypatch.setattr``."""
    from helpers import devices
    from helpers.language_model import models
    from helpers.train import loop

    torch.set_num_threads(1)
    for module in (devices, loop):
        patch(module, "find_precision", lambda _: torch.float32)
    patch(models, "load_language_model", lambda path, *_: Light(path))


def write_inputs():
    """Artifacts of a language model and of its tokens, in $BOOK_ARTIFACTS."""
    from helpers import artifacts, paths
    from helpers.language_model.models import save
    from helpers.language_model.transformer import Architecture, initial_weights

    def model(folder):
        shape = Architecture(1, D_MODEL, 2, D_MLP, CONTEXT, VOCABULARY)
        save(folder, shape, initial_weights(shape, 0), seed=0)

    def tokens(folder):
        import pandas as pd

        random = np.random.default_rng(0)
        text = random.integers(1, VOCABULARY, 3000).astype(np.uint16)
        np.save(folder / "train.npy", text)
        np.save(folder / "held_out.npy", text[:CONTEXT][None])
        rows = pd.DataFrame({"class": ["prose"], "length": [CONTEXT]})
        rows.to_parquet(folder / "held_out.parquet")
        summary = {"vocab_size": VOCABULARY, "context": CONTEXT}
        (folder / "summary.json").write_text(json.dumps(summary))

    artifacts.produce(paths.language_model("tiny", "A"), model, parameters={})
    artifacts.produce(paths.tokens("tiny"), tokens, parameters={})
