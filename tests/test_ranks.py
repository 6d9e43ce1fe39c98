"""Several ranks train as one process does."""

import json

import pytest
import torch

from helpers import ranks, train
from tests import train_worker

SETTINGS = train.Settings(
    activations=64 * 200, batch=64, lr=3e-3, dead_after=400, log_every=1,
    aux_k=8, resample=(0.1, 0.3, 0.5),
)  # fmt: skip


def run(count, architecture, folder):
    made = [
        train_worker.start(
            train_worker.rank, number, count, architecture, SETTINGS, folder
        )
        for number in range(count)
    ]
    for process in made:
        process.join(120)
        assert process.exitcode == 0
    return json.loads((folder / f"log{count}.json").read_text())


@pytest.mark.parametrize(
    "architecture",
    ["topk", "l1", "batchtopk", "jumprelu", "gated", "matryoshka"],
)
def test_two_ranks_follow_the_curve_of_one(architecture, tmp_path):
    alone = run(1, architecture, tmp_path)
    both = run(2, architecture, tmp_path)
    assert len(alone["log"]) == 200
    for one, two in zip(alone["log"], both["log"], strict=True):
        assert two == pytest.approx(one, rel=1e-5), one["step"]
    assert alone["resampled"] == both["resampled"]
    if architecture == "l1":
        assert alone["resampled"] > 3
    if "top" in architecture or architecture == "matryoshka":
        assert any(line["dead"] > 0 for line in alone["log"])  # so AuxK ran
    first, second = (
        torch.load(tmp_path / f"weights2-{number}.pt") for number in (0, 1)
    )
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name


def test_one_rank_communicates_nothing():
    x = torch.arange(6.0).view(3, 2)
    assert (ranks.count(), ranks.index()) == (1, 0)
    assert ranks.share(x) is x and ranks.least(x) is x
    assert ranks.join(x, 3) is x and ranks.largest(4, x.device) == 4
    values, mine = ranks.gather(x[0])
    assert values[mine].tolist() == [0, 1]
    before = x.clone()
    ranks.add([x])
    assert torch.equal(x, before)


def collect(number, folder):
    """Every message, between three ranks with slices of unequal lengths."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=number, world_size=3
    )
    x = torch.arange(14.0).view(7, 2)
    part = ranks.share(x)
    assert len(part) == [3, 2, 2][number]
    assert torch.equal(ranks.join(part, 7), x)
    whole, mine = ranks.gather(part.flatten())
    assert torch.equal(whole, x.flatten())
    assert torch.equal(whole[mine], part.flatten())
    sums = [part.sum(0), torch.tensor([float(number)])]
    ranks.add(sums)
    assert torch.equal(sums[0], x.sum(0)) and sums[1].item() == 3
    assert ranks.least(torch.tensor([number, -number])).tolist() == [0, -2]
    assert ranks.largest(number, x.device) == 2
    if number == 0:
        ranks.tell(True)
    else:
        assert ranks.hear() is True


def test_messages_between_three_ranks(tmp_path):
    made = [
        train_worker.start(collect, number, tmp_path) for number in range(3)
    ]
    for process in made:
        process.join(120)
        assert process.exitcode == 0
