"""Peak memory of building an SAE and training it for two steps.

Each measurement is a process of its own, forked from one that has imported
everything but computed nothing: what the imports take is in none of them.
"""

import json
import multiprocessing
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from helpers.errors import InputError
from tests.bench import versions
from tests.bench.versions import Task, Version

STEPS = 2  # the second has the optimiser's state beside the gradients
CLEAR = Path("/proc/self/clear_refs")  # "5" forgets the peak so far


def measure(tasks: list[tuple[str, Task]]) -> list[dict]:
    """For each version's name and task: mebibytes, or the error.

    Runs them in a fresh process, for a fork needs one that has not computed.
    """
    given = json.dumps([[name, asdict(task)] for name, task in tasks])
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.memory"],
        input=given, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"peak memory could not be measured: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def peak(version: Version, task: Task) -> float:
    """Mebibytes that this process takes at most, beyond those it has."""
    x = torch.randn(task.batch, task.d_in, device=task.device)
    if x.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = _clear()
    trainer = version.make(task)
    for _ in range(STEPS):
        trainer.step(x)
    after = torch.cuda.max_memory_allocated() if x.is_cuda else _peak()
    return (after - before) / 2**20


def _clear() -> int:
    """Forget the peak so far where the system can; bytes held now."""
    try:
        CLEAR.write_text("5")
        return _status("VmRSS")
    except OSError:
        return _peak()


def _peak() -> int:
    if CLEAR.exists():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(name)]
    return int(line.split()[1]) * 1024


def _child(version: Version, task: Task, pipe) -> None:
    from tests.bench.speed import reason

    try:
        pipe.send({"mib": peak(version, task)})
    except Exception as error:  # a row with its reason
        pipe.send({"error": reason(error)})


def main() -> None:
    """Measure what standard input asks for, one forked process each."""
    known = {version.name: version for version in versions.load_all()}
    fork, found = multiprocessing.get_context("fork"), []
    for name, given in json.load(sys.stdin):
        ours, theirs = fork.Pipe(duplex=False)
        child = fork.Process(
            target=_child, args=(known[name], Task(**given), theirs)
        )
        child.start()
        theirs.close()
        try:
            found.append(ours.recv())
        except EOFError:
            found.append({"error": "its process was killed"})
        child.join()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
