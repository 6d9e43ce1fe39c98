"""dictionary_learning: its trainers' ``update``, as ``trainSAE`` calls it.

Its defaults are meant for activations of unit mean square norm (its
``normalize_activations``), so it gets them divided by sqrt(d_in), and its
penalties in those units. Its ``trainSAE`` leaves autocast out on the CPU;
here it may use it there too.
"""

import contextlib

import nnsight
import torch
from dictionary_learning.trainers import (
    BatchTopKTrainer,
    GatedSAETrainer,
    JumpReluTrainer,
    StandardTrainer,
    TopKTrainer,
)
from dictionary_learning.trainers.matryoshka_batch_top_k import (
    MatryoshkaBatchTopKTrainer,
)

from tests.bench.versions import Task, Version

# Its import brings nnsight, which replaces parts of torch, einops and math;
# torch.compile then fails in the whole process. Its trainers use none of it.
nnsight.DEFAULT_PATCHER.__exit__(None, None, None)

KINDS = {
    "topk": TopKTrainer,
    "batchtopk": BatchTopKTrainer,
    "standard": StandardTrainer,
    "jumprelu": JumpReluTrainer,
    "gated": GatedSAETrainer,
    "matryoshka_batchtopk": MatryoshkaBatchTopKTrainer,
}


class DictionaryLearning:
    """One of its trainers."""

    def __init__(self, task: Task, autocast: bool):
        torch.manual_seed(task.seed)
        self.task, self.autocast = task, autocast
        self.scale, self.done = task.d_in**-0.5, 0
        self.trainer = KINDS[task.architecture](
            steps=task.steps,
            activation_dim=task.d_in,
            dict_size=task.d_sae,
            layer=0,
            lm_name="none",
            lr=task.lr,
            warmup_steps=task.warm_up,
            decay_start=task.steps - task.decay,
            seed=task.seed,
            device=task.device,
            **self._options(task),
        )
        self.trainer.dead_feature_threshold = task.dead_after

    def step(self, x):
        how = contextlib.nullcontext()
        if self.autocast:
            how = torch.autocast(x.device.type, torch.bfloat16)
        with how:
            self.trainer.update(self.done, x * self.scale)
        self.done += 1

    @torch.no_grad()
    def codes(self, x):
        x = x * self.scale
        if "batchtopk" in self.task.architecture:
            return self.trainer.ae.encode(x, use_threshold=False)
        return self.trainer.ae.encode(x)

    @torch.no_grad()
    def rebuild(self, codes):
        return self.trainer.ae.decode(codes) / self.scale

    def directions(self):
        ae = self.trainer.ae
        if hasattr(ae, "W_dec"):
            return ae.W_dec.detach()
        return ae.decoder.weight.detach().T

    @torch.no_grad()
    def set_bias(self, value):
        self.trainer.ae.encoder.bias.fill_(value * self.scale)

    def close(self):
        pass

    def _options(self, task: Task) -> dict:
        if task.architecture in ("standard", "gated"):
            penalty = task.coefficient * self.scale
            return {
                "l1_penalty": penalty,
                "sparsity_warmup_steps": task.warm_up,
            }
        if task.architecture == "jumprelu":
            return {
                "target_l0": task.coefficient,
                "sparsity_warmup_steps": task.warm_up,
            }
        if task.architecture == "matryoshka_batchtopk":
            widths = [0, *task.widths]
            shares = [
                (b - a) / task.d_sae
                for a, b in zip(widths, widths[1:], strict=False)
            ]
            return {"k": task.k, "group_fractions": shares}
        return {"k": task.k}


def _version(setting: str, autocast: bool) -> Version:
    def make(task):
        return DictionaryLearning(task, autocast)

    return Version("dictionary_learning", setting, make)


VERSIONS = [_version("default", False), _version("autocast", True)]
