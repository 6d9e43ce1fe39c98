"""Paired timings of the language model's training step.

Ours against calling the ``HookedTransformer`` itself, in float32 and under
bfloat16 autocast, each with the same weights, batch, fused AdamW and
process. Rounds alternate between the versions, so that a change in the
machine's speed falls on all of them; medians and ratios are printed.
"""

import statistics
import time

import torch

from helpers.devices import find_device, find_precision
from helpers.language_model import Architecture, initial_weights, loss
from helpers.language_model.models import as_hooked

ROUNDS = 7
SHAPE = Architecture(
    layers=1, d_model=128, heads=4, d_mlp=512, context=128, vocab_size=4096
)


def ours(dtype):
    """Our step: weights, and a function from tokens to the loss."""
    weights = {
        name: value.to(find_device()).requires_grad_()
        for name, value in initial_weights(SHAPE, 0).items()
    }
    return list(weights.values()), lambda x: loss(weights, x, dtype)


def clear(dtype):
    """The same through TransformerLens, under autocast unless float32."""
    model = as_hooked(vars(SHAPE), initial_weights(SHAPE, 0)).train()
    model.requires_grad_(True)
    low = dtype != torch.float32

    def compute(x):
        with torch.autocast(x.device.type, dtype, enabled=low):
            return model(x[:, :-1], return_type="loss")

    return list(model.parameters()), compute


def seconds(version, tokens) -> float:
    """Wall time of one training step."""
    parameters, compute, optimizer = version
    start = time.perf_counter()
    compute(tokens).backward()
    optimizer.step()
    optimizer.zero_grad()
    if tokens.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(batch: int) -> dict[str, float]:
    """Median tokens per second of each version at one batch size."""
    device = find_device()
    low = find_precision(device)
    versions = {
        f"{label}, {str(dtype).removeprefix('torch.')}": make(dtype)
        for label, make in (("ours", ours), ("TransformerLens", clear))
        for dtype in dict.fromkeys([low, torch.float32])
    }
    ready = {
        name: (p, f, torch.optim.AdamW(p, lr=1e-3, fused=True))
        for name, (p, f) in versions.items()
    }
    generator = torch.Generator().manual_seed(0)
    size = (batch, SHAPE.context + 1)
    tokens = torch.randint(SHAPE.vocab_size, size, generator=generator)
    times = {name: [] for name in ready}
    for number in range(ROUNDS + 2):
        for name, version in ready.items():
            spent = seconds(version, tokens.to(device))
            if number >= 2:  # the first two warm up
                times[name].append(spent)
    count = batch * SHAPE.context
    return {k: count / statistics.median(v) for k, v in times.items()}


def rows(batch: int) -> list[dict]:
    """The same as rows of the benchmark."""
    return [
        {"version": name, "tokens_per_second": speed}
        for name, speed in measure(batch).items()
    ]
