"""SAELens: its ``SAETrainer.step``, as ``fit`` calls it."""

import warnings

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.training.sae_trainer import SAETrainer

from tests.bench.versions import Task, Version

KINDS = {
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
    "standard": (StandardTrainingSAE, StandardTrainingSAEConfig),
    "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig),
    "gated": (GatedTrainingSAE, GatedTrainingSAEConfig),
    "matryoshka_batchtopk": (
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
    ),
}


class SAELens:
    """One of its SAEs in its trainer; biases and the rest as it has them."""

    def __init__(self, task: Task, autocast: bool, compiles: bool):
        torch.manual_seed(task.seed)
        kind, config = KINDS[task.architecture]
        self.sae = kind(
            config(d_in=task.d_in, d_sae=task.d_sae, device=task.device,
                   **_options(task))
        )  # fmt: skip
        how = SAETrainerConfig(
            total_training_samples=task.steps * task.batch,
            train_batch_size_samples=task.batch,
            lr=task.lr,
            lr_end=0.0,
            lr_warm_up_steps=task.warm_up,
            lr_decay_steps=task.decay,
            device=task.device,
            autocast=autocast,
            dead_feature_window=max(task.dead_after // task.batch, 1),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.trainer = SAETrainer(how, self.sae, iter(()))
        if compiles:  # as its LanguageModelSAETrainingRunner does
            self.sae.training_forward_pass = torch.compile(
                self.sae.training_forward_pass, backend="inductor"
            )

    def step(self, x):
        self.trainer.step(x)
        self.trainer.n_training_steps += 1

    @torch.no_grad()
    def codes(self, x):
        return self.sae.encode(x)

    @torch.no_grad()
    def rebuild(self, codes):
        return self.sae.decode(codes)

    def directions(self):
        return self.sae.W_dec.detach()

    @torch.no_grad()
    def set_bias(self, value):
        self.sae.b_enc.fill_(value)

    def close(self):
        pass


def _options(task: Task) -> dict:
    if task.architecture in ("standard", "gated"):
        return {"l1_coefficient": task.coefficient}
    if task.architecture == "jumprelu":
        mode = {"jumprelu_sparsity_loss_mode": "quadratic"}
        return mode | {"target_l0": task.coefficient}
    if task.architecture == "matryoshka_batchtopk":
        return {"k": task.k, "matryoshka_widths": task.widths}
    return {"k": task.k}


def _version(setting: str, autocast: bool, compiles: bool) -> Version:
    def make(task):
        return SAELens(task, autocast, compiles)

    return Version("SAELens", setting, make)


VERSIONS = [
    _version("default", False, False),
    _version("autocast", True, False),
    _version("autocast + compile", True, True),
]
