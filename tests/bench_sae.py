"""Paired timings of an SAE's training step: plain PyTorch against native.

Whole steps: loss, gradients, optimiser with unit decoder rows; activations
in memory, d_in 512, 4096 tokens a step. Rounds alternate between the two
in one process, so that a change in the machine's speed falls on both;
medians are printed, and the time of the step's matrix products done dense
in the same precision beside them: the floor of a dense step. Run as
``python -m tests.bench_sae [expansions]``.
"""

import statistics
import sys
import time

import torch

from helpers.devices import find_precision
from helpers.kernels import native, reference

ROUNDS, D_IN, BATCH, K = 3, 512, 4096, 32
DTYPE = find_precision("cpu")
ROWS = {  # encoder bias and how many dense products a step has
    "TopK": (0.0, 1),
    "L1 dense": (0.0, 5),
    "L1 sparse": (-2.5, 1),
    "BatchTopK selection": (0.0, 0),
}


def parameters(expansion: int, bias: float) -> dict[str, torch.Tensor]:
    """Weights as an SAE stores them; the bias decides how many fire."""
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(expansion * D_IN, D_IN, generator=random)
    rows /= rows.norm(dim=1, keepdim=True)
    b_enc = torch.full((expansion * D_IN,), bias)
    return dict(
        W_enc=rows.clone().T, b_enc=b_enc, W_dec=rows,
        b_dec=torch.zeros(D_IN),
    )  # fmt: skip


def version(backend, name: str, expansion: int):
    """A function that does one step of a backend."""
    if name == "BatchTopK selection":
        pre = torch.randn(BATCH, expansion * D_IN).to(DTYPE)
        return lambda x: backend.batch_top_k(pre, K * BATCH)
    made = parameters(expansion, ROWS[name][0])
    adam = backend.Adam(made, dtype=DTYPE)

    def step(x):
        w = reference.Weights(**made)
        if name == "TopK":
            found = backend.topk_step(x, w, K, DTYPE, adam.low)
        else:
            found = backend.relu_step(x, w, 0.0, DTYPE, adam.low)
        adam.step(1e-6, found.gradients)  # small: the codes stay as they are

    return step


def floor(name: str, expansion: int):
    """A function that does only the dense matrix products of a step."""
    low = parameters(expansion, 0.0)["W_enc"].to(DTYPE)
    return lambda x: [x.to(DTYPE) @ low for _ in range(ROWS[name][1])]


def measure(name: str, expansion: int) -> dict[str, float]:
    """Median seconds of each version."""
    versions = {
        "reference": version(reference, name, expansion),
        "native": version(native, name, expansion),
        "floor": floor(name, expansion),
    }
    times = {label: [] for label in versions}
    x = torch.randn(BATCH, D_IN)
    for _ in range(ROUNDS + 1):
        for label, step in versions.items():
            start = time.perf_counter()
            step(x)
            times[label].append(time.perf_counter() - start)
    return {k: statistics.median(v[1:]) for k, v in times.items()}


def main(expansions: list[int]) -> None:
    """Print the table."""
    native.load()
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, {DTYPE}; tokens a second")
    print(f"{'':24}{'plain':>10}{'native':>10}{'ratio':>8}{'GEMM floor':>12}")
    for name in ROWS:
        for expansion in expansions:
            t = measure(name, expansion)
            ratio = t["reference"] / t["native"]
            rates = [BATCH / t[label] for label in ("reference", "native")]
            limit = f"{BATCH / t['floor']:,.0f}" if ROWS[name][1] else "-"
            print(
                f"{name + f' {expansion}x':24}{rates[0]:10,.0f}"
                f"{rates[1]:10,.0f}{ratio:8.2f}{limit:>12}",
                flush=True,
            )


if __name__ == "__main__":
    main([int(value) for value in sys.argv[1:]] or [8, 32])
