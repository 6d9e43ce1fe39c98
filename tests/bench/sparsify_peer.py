"""sparsify: its ``SparseCoder`` and optimiser, stepped as ``Trainer.fit``.

That loop cannot be driven from outside without a language model; what it
does at each step is repeated here with its own parts and in its order.
Its Triton decoder needs CUDA: on the CPU its eager path runs.
"""

import contextlib
import io

import torch
from schedulefree import ScheduleFreeWrapper

with contextlib.redirect_stdout(io.StringIO()):  # it prints its choice
    from sparsify import SparseCoder, SparseCoderConfig
    from sparsify.sign_sgd import SignSGD
    from sparsify.utils import decoder_impl

from tests.bench.versions import Task, Version

AUX = 1 / 32  # weight of AuxK, as the other TopK versions have it


class Sparsify:
    """A sparse coder with the default optimiser (schedule-free signum)."""

    def __init__(self, task: Task, autocast: bool):
        torch.manual_seed(task.seed)
        self.task, self.autocast = task, autocast
        config = SparseCoderConfig(num_latents=task.d_sae, k=task.k)
        self.sae = SparseCoder(task.d_in, config, task.device)
        groups = [dict(params=self.sae.parameters(), lr=task.lr)]
        self.optimizer = ScheduleFreeWrapper(SignSGD(groups), momentum=0.95)
        self.optimizer.train()
        shape = task.d_sae
        self.silent = torch.zeros(shape, dtype=torch.long, device=task.device)
        self.fired = torch.zeros(shape, dtype=torch.bool, device=task.device)
        self.done = 0

    def step(self, x):
        if self.done == 0:
            self.sae.b_dec.data = x.mean(0)
        self.sae.set_decoder_norm_to_unit_norm()
        dead = self.silent > self.task.dead_after
        variance = (x - x.mean(0)).pow(2).sum()
        with torch.autocast(
            x.device.type, torch.bfloat16, enabled=self.autocast
        ):
            out = self.sae(x=x, y=x, dead_mask=dead, total_variance=variance)
        self.fired[out.latent_indices.flatten()] = True
        float(out.fvu.detach())  # its running mean, read at each step
        float(out.auxk_loss.detach())
        loss = out.fvu + AUX * out.auxk_loss + out.multi_topk_fvu / 8
        loss.backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.silent += len(x)
        self.silent[self.fired] = 0
        self.fired.zero_()
        self.done += 1

    @torch.no_grad()
    def codes(self, x):
        self._finish()
        values, places, pre = self.sae.encode(x)
        return torch.zeros_like(pre).scatter_(1, places, values)

    @torch.no_grad()
    def rebuild(self, codes):
        self._finish()
        values, places = codes.topk(self.task.k, sorted=False)
        return self.sae.decode(values, places)

    def directions(self):
        self._finish()
        return self.sae.W_dec.detach()

    @torch.no_grad()
    def set_bias(self, value):
        self.sae.encoder.bias.fill_(value)

    def close(self):
        self._finish()

    def _finish(self):
        """Take the averaged weights, as it does before it saves."""
        self.optimizer.eval()


def _version(setting: str, autocast: bool) -> Version:
    def make(task):
        return Sparsify(task, autocast)

    note = f"decoder: {decoder_impl.__name__}"
    return Version("sparsify", setting, make, ("topk",), note=note)


VERSIONS = [_version("default", False), _version("autocast", True)]
