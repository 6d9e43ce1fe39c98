"""Paired timings of a training step: plain PyTorch against native.

Whole steps of every architecture: codes, loss, gradients, optimiser with
unit decoder rows; activations in memory, d_in 512, 4096 tokens a step.
Rounds alternate between the two in one process, so that a change in the
machine's speed falls on both; the fastest round of each counts, as others
may share the machine. The step's matrix products alone, done dense in the
same precision, stand beside them: the floor of a dense step. Run as
``python -m tests.bench.kernels [expansions]``, or with ``memory NAME BACKEND
EXPANSION`` for the peak memory of one step.
"""

import os
import resource
import sys
import time

import torch

from helpers import kernels, sae
from helpers.devices import find_precision

ROUNDS, D_IN, BATCH, K = 4, 512, 4096, 32
DTYPE = find_precision("cpu")
# Architecture, encoder bias (how many codes are positive), dense products.
ROWS = {
    "TopK": ("topk", 0.0, 1),
    "BatchTopK": ("batchtopk", 0.0, 1),
    "Matryoshka": ("matryoshka", 0.0, 1),
    "L1 dense": ("l1", 0.0, 5),
    "L1 sparse": ("l1", -2.5, 1),
    "JumpReLU dense": ("jumprelu", 0.0, 5),
    "JumpReLU sparse": ("jumprelu", -2.5, 1),
    "Gated dense": ("gated", 0.0, 7),
    "Gated sparse": ("gated", -2.5, 1),
}


def make(name: str, expansion: int) -> sae.SAE:
    """An SAE whose bias decides how many of its codes are positive."""
    kind, bias, _ = ROWS[name]
    model = sae.build(
        kind, D_IN, "hook", expansion=expansion, k=K, l1=0.0, seed=0
    )
    with torch.no_grad():
        model.W_enc.copy_(model.W_dec.T)  # pre-activations of unit variance
        getattr(model, "b_gate" if kind == "gated" else "b_enc").fill_(bias)
    return model


def version(backend: str, name: str, expansion: int):
    """A function that does one step with a backend."""
    os.environ[kernels.CHOICE] = backend
    model = make(name, expansion)
    parts = {n: part.detach() for n, part in model.named_parameters()}
    adam = kernels.Adam(parts, dtype=DTYPE)

    def step(x):
        os.environ[kernels.CHOICE] = backend
        found = model.gradients(x, DTYPE, adam.low)
        adam.step(1e-9, found.gradients)  # small: the codes stay as they are

    return step


def floor(name: str, expansion: int):
    """A function that does only the dense matrix products of a step."""
    low = torch.randn(expansion * D_IN, D_IN).to(DTYPE)
    return lambda x: [x.to(DTYPE) @ low.T for _ in range(ROWS[name][2])]


def measure(name: str, expansion: int) -> dict[str, float]:
    """Seconds of each version's fastest step."""
    versions = {
        "reference": version("reference", name, expansion),
        "native": version("native", name, expansion),
        "floor": floor(name, expansion),
    }
    times = {label: [] for label in versions}
    x = torch.randn(BATCH, D_IN)
    for _ in range(ROUNDS + 1):
        for label, step in versions.items():
            start = time.perf_counter()
            step(x)
            times[label].append(time.perf_counter() - start)
    return {label: min(found[1:]) for label, found in times.items()}


def memory(name: str, backend: str, expansion: int) -> None:
    """Print by how much two steps raise the process's peak, in MB."""
    step = version(backend, name, expansion)
    x = torch.randn(BATCH, D_IN)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(x), step(x)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{name} {backend} {expansion}x: {(after - before) / 1024:.0f} MB")


def main(expansions: list[int]) -> None:
    """Print the table."""
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, {DTYPE}; tokens a second")
    print(f"{'':24}{'plain':>10}{'native':>10}{'ratio':>8}{'GEMM floor':>12}")
    for name in ROWS:
        for expansion in expansions:
            t = measure(name, expansion)
            plain, native, limit = (BATCH / seconds for seconds in t.values())
            print(
                f"{name + f' {expansion}x':24}{plain:10,.0f}{native:10,.0f}"
                f"{native / plain:8.2f}{limit:12,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    given = sys.argv[1:]
    if given[:1] == ["memory"]:
        memory(given[1], given[2], int(given[3]))
    else:
        main([int(value) for value in given] or [8, 32])
