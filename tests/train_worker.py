"""Trainings in processes of their own: to be killed, or to be ranks.

Children are forked from one server that has imported everything, so that
each starts in milliseconds, with a single thread.
"""

import json
import multiprocessing
import os
import signal

import numpy as np
import torch

from helpers import activations, train
from helpers.train import checkpoint, loop, resampling

HOOK = "blocks.0.mlp.hook_post"
KILLED = train.Settings(
    activations=32 * 48, batch=32, lr=3e-3, dead_after=100, log_every=3,
    aux_k=8, resample=(0.2, 0.4, 0.6, 0.8), seed=3,
)  # fmt: skip


def data(d_in=12, true=24, batch=64, seed=0):
    """Endless batches of sparse sums of fixed directions."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(true, d_in, generator=random)
    rows /= rows.norm(dim=1, keepdim=True)
    while True:
        on = torch.rand(batch, true, generator=random) < 0.08
        yield (on * torch.rand(batch, true, generator=random)) @ rows + 0.3


def start(work, *arguments):
    """A child process that runs ``work``."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train_worker", "transformer_lens"])
    process = context.Process(target=work, args=arguments)
    process.start()
    return process


def streamed(architecture, folder, kill=None, how=signal.SIGKILL):
    """Train on a tiny transformer's activations; weights in ``folder``.

    ``kill``: the step before which the signal ``how`` comes, or "write"
    for a SIGKILL in the middle of the second checkpoint.
    """
    from tests.test_activations import tiny_model

    torch.set_num_threads(1)
    text = np.random.default_rng(0).integers(0, 30, 900).astype(np.uint16)
    if kill == "write":
        _die_writing(3)

    def batches(first):
        stream = activations.stream(
            tiny_model(), text, [HOOK], batch=32, seed=3, buffer=128,
            rows_per_pass=9, start=first, overlap=True,
        )  # fmt: skip
        for step, part in enumerate(stream, first):
            if step == kill:
                os.kill(os.getpid(), how)
            yield part[HOOK]

    model = train.build(
        architecture, 32, HOOK, expansion=4, k=4, l1=4.0, seed=1
    )
    if architecture == "l1":  # planted: nothing but resampling wakes them
        model.b_enc.data[:6] = -100
    kept = train.Checkpoints(folder / "kept", "key", every=0)
    drawn = count_resampled()
    log = train.fit(model, batches, KILLED, kept)
    torch.save(model.state_dict(), folder / "weights.pt")
    found = {"log": log, "resampled": sum(drawn)}
    (folder / "log.json").write_text(json.dumps(found))


def count_resampled():
    """A list that gets the number of latents of each resampling."""
    replace, drawn = resampling.replace, []

    def counted(model, rows, inputs, dead):
        drawn.append(len(rows))
        replace(model, rows, inputs, dead)

    resampling.replace = counted
    return drawn


def rank(number, count, architecture, settings, folder):
    """One of ``count`` ranks; rank 0 writes its log and weights."""
    torch.set_num_threads(1)
    loop.find_precision = lambda _: torch.float32
    if count > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/meet{count}",
            rank=number, world_size=count,
        )  # fmt: skip
    model = train.build(
        architecture, 12, "h", expansion=4, k=3, l1=0.8, seed=1
    )
    if architecture == "l1":  # planted: nothing but resampling wakes them
        model.b_enc.data[:6] = -100
    drawn = count_resampled()
    log = train.fit(model, data(), settings)
    if number == 0:
        found = {"log": log, "resampled": sum(drawn)}
        (folder / f"log{count}.json").write_text(json.dumps(found))
    torch.save(model.state_dict(), folder / f"weights{count}-{number}.pt")


def _die_writing(times):
    """Be killed between a checkpoint's content and its name.

    Each takes two calls: for the file and, once it is named, its folder.
    """
    left = [times]

    def fsync(_):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.os = type(
        "os", (), {**vars(os), "fsync": staticmethod(fsync)}
    )
