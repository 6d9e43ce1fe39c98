"""Loss recovered on the specimen: TopK trained on its activations.

The next-token loss of held-out documents with the reconstruction in the
place of the activations, between that of the model as it is and that with
the activations at zero (``helpers.metrics``).
"""

import numpy as np
import torch

from helpers.metrics import document_losses, loss_recovered
from tests.bench import data, quality
from tests.bench.speed import reason
from tests.bench.versions import Task, Version

DOCUMENTS = 16  # of each text class
ROWS = 16  # documents in a forward pass


def compare(
    profile: str, versions: list[Version], steps: int, batch: int
) -> list[dict]:
    """A row a version: FVU, L0 and loss recovered at its best rate."""
    batches, scale = data.specimen(profile, batch, steps + quality.HELD)
    given = quality.Material(None, batches[:steps], batches[steps:])
    d_in = batches[0].shape[1]
    task = Task("topk", d_in, 8 * d_in, batch=batch, steps=steps,
                dead_after=batch * steps // 8)  # fmt: skip
    network, tokens = data.load(profile)
    rows = [part[:DOCUMENTS] for part in tokens.held_out.values()]
    text = torch.from_numpy(np.concatenate(rows).astype(np.int64))
    whole = losses(network, text, [None, torch.zeros_like])
    return [
        _row(version, task, given, network, text, whole, scale)
        for version in versions
    ]


def losses(network, text: torch.Tensor, treatments: list) -> np.ndarray:
    """Mean next-token loss under each treatment, nats."""
    sums = sum(
        document_losses(network, data.HOOK_POINT, part, treatments).sum(0)
        for part in text.split(ROWS)
    )
    return sums[:-1] / sums[-1]


def _row(version, task, given, network, text, whole, scale) -> dict:
    found = {"architecture": task.architecture, "library": version.library,
             "setting": version.setting, "ours": version.ours}  # fmt: skip
    runs = {}

    def score(lr: float) -> float:
        how = Task(**(vars(task) | {"lr": lr}))
        trainer = quality.trained(version, how, given.batches)
        runs[lr] = quality.fvu_and_l0(trainer, given.held)

        def treat(x):
            rebuilt = trainer.rebuild(trainer.codes(x * scale))
            return rebuilt.to(x) / scale

        (with_sae,) = losses(network, text, [treat])
        trainer.close()
        clean, zero = (float(value) for value in whole)
        runs[lr]["loss_recovered"] = loss_recovered(
            clean, float(with_sae), zero
        )
        return runs[lr]["fvu"]

    try:
        lr = quality.search(score, len(quality.START))
    except Exception as error:  # a row with its reason
        return found | {"error": reason(error)}
    return found | runs[lr] | {"lr": lr}
