"""``helpers.train`` as a command, alone and in the Slurm scripts.

The scripts run as they are, with the real torchrun; ``srun``, ``scancel``
and ``scontrol`` are those of ``SLURM``, where every node is this machine.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from helpers import artifacts, paths, sae, train
from helpers.train import __main__ as command
from tests import cluster_worker

SETTINGS = {
    "activations": 32 * 100, "batch": 32, "k": 4, "expansion": 4,
    "log_every": 5, "dead_after": 500,
}  # fmt: skip
LIST = {
    "profile": "tiny",
    "model": "A",
    "common": SETTINGS,
    "saes": {
        "topk-4x": {"architecture": "topk", "lr": 3e-3},
        "l1-4x": {"architecture": "l1", "l1": 2, "activations": 32 * 40},
    },
}

SLURM = {
    "srun": """#!/usr/bin/env bash
        while [[ $1 == --* ]]; do shift; done
        for _ in $(seq "$SLURM_JOB_NUM_NODES"); do
          setsid "$@" & echo $! >> "$STEPS"
        done
        for pid in $(cat "$STEPS"); do wait "$pid" || status=$?; done
        exit ${status:-0}""",
    # To every process of the step, whatever its session.
    "scancel": f"""#!{sys.executable} -S
import os, sys
sys.path.append({psutil.__path__[0].rpartition("/")[0]!r})
import psutil
assert sys.argv[1:] == ["--signal=TERM", os.environ["SLURM_JOB_ID"]]
steps = [psutil.Process(int(n)) for n in open(os.environ["STEPS"])]
for step in steps:
    for process in [step, *step.children(recursive=True)]:
        process.terminate()
""",
    "scontrol": """#!/usr/bin/env bash
        case "$1 $2" in
          "show hostnames") printf 'localhost\\nlocalhost\\n';;
          requeue*) echo "$2" >> "$REQUEUED";;
        esac""",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder of artifacts: a tiny language model and its tokens."""
    root = tmp_path_factory.mktemp("inputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOOK_ARTIFACTS", str(root))
        cluster_worker.write_inputs()
    return root


@pytest.fixture
def alone(inputs, tmp_path, monkeypatch):
    """The command in this process, over a copy of the inputs."""
    monkeypatch.setenv("BOOK_ARTIFACTS", str(tmp_path))
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    threads = torch.get_num_threads()
    cluster_worker.install(monkeypatch.setattr)
    yield tmp_path
    torch.set_num_threads(threads)


def write(folder, content=LIST):
    file = folder / "saes.yaml"
    if not isinstance(content, str):
        content = yaml.safe_dump(content, sort_keys=False)
    file.write_text(content)
    return str(file)


def environment(folder):
    """Of a process that computes as ``cluster_worker`` says, without GPUs."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    code = "from tests import cluster_worker\ncluster_worker.install()\n"
    (site / "sitecustomize.py").write_text(code)
    return {
        **os.environ, "PYTHONPATH": f"{site}:{paths.ROOT}",
        "BOOK_ARTIFACTS": str(folder), "BOOK_KERNELS": "reference",
        "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip


def submit(script, folder, *words, nodes=1, processes=1, root=paths.ROOT):
    """Start a job script as Slurm would, with ``SLURM`` in Slurm's place."""
    slurm = folder / "slurm"
    slurm.mkdir(exist_ok=True)
    (slurm / "steps").unlink(missing_ok=True)
    for name, source in SLURM.items():
        (slurm / name).write_text(source)
        (slurm / name).chmod(0o755)
    job = {
        "SLURM_JOB_ID": str(free_port() - 20000),
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_CPUS_PER_TASK": "2",
        "SLURM_GPUS_ON_NODE": str(processes), "SLURM_SUBMIT_DIR": str(root),
        "STEPS": str(slurm / "steps"), "REQUEUED": str(slurm / "requeued"),
        "PATH": f"{slurm}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    return subprocess.Popen(
        ["bash", paths.ROOT / "cluster" / script, *words],
        env=environment(folder) | job, text=True, cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(job):
    """Exit status, and what it printed to stdout and stderr."""
    out, error = job.communicate(timeout=300)
    return job.returncode, out, error


def free_port():
    """A port of the range that several-nodes.sbatch chooses from."""
    for port in range(20000, 30000):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", port)):
                return port
    raise AssertionError("no port is free")


def requeued(folder):
    file = folder / "slurm" / "requeued"
    return len(file.read_text().split()) if file.exists() else 0


def made(folder, name):
    """An SAE of a folder: weights, log, number of ranks."""
    path = folder / "tiny" / "saes" / name
    weights = sae.load(path).state_dict()
    lines = (path / train.LOG).read_text().splitlines()
    return weights, [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def both(inputs, tmp_path_factory):
    """What two nodes of one process made: the folder, what they printed."""
    folder = tmp_path_factory.mktemp("both")
    shutil.copytree(inputs, folder, dirs_exist_ok=True)
    status, *said = ended(
        submit("several-nodes.sbatch", folder, write(folder), nodes=2)
    )
    assert status == 0, said[1]
    assert requeued(folder) == 0
    return folder, said


def test_two_ranks_follow_the_curve_of_one(both, alone, monkeypatch):
    monkeypatch.setenv("BOOK_KERNELS", "reference")
    assert command.main([write(alone)]) == 0
    for name in LIST["saes"]:
        (_, one), (_, two) = made(alone, name), made(both[0], name)
        assert len(one) == len(two) >= 8
        for expected, found in zip(one, two, strict=True):
            assert found == pytest.approx(expected, rel=1e-5)
        assert one[-1]["fvu"] < one[0]["fvu"]


def test_rank_0_alone_prints(both):
    out, error = both[1]
    assert out.splitlines() == [
        "artifacts/tiny/saes/topk-4x", "artifacts/tiny/saes/l1-4x"
    ]  # fmt: skip
    assert error.count("training standard, topk:   0%") == 1


def test_a_job_out_of_time_goes_on_later(both, inputs, tmp_path):
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    words = tmp_path, write(tmp_path, {**LIST, "checkpoint_every": 0})
    job = submit("one-node.sbatch", *words, processes=2)
    kept = tmp_path / "tiny" / "checkpoints" / "topk-4x"
    until = time.monotonic() + 300
    while not list(kept.glob("*.pt")) and time.monotonic() < until:
        time.sleep(0.005)
    job.send_signal(signal.SIGUSR1)
    status, out, error = ended(job)
    assert status != 0 and requeued(tmp_path) == 1
    assert out == ("time is nearly over: stopping\n"
                   "not finished: the job goes back into the queue\n")
    assert error.count("stopped; the same command goes on") == 1
    assert not list(tmp_path.glob("tiny/saes/*"))
    steps = [int(file.stem[5:]) for file in kept.glob("*.pt")]
    assert 0 < max(steps) < 100
    job = submit("one-node.sbatch", *words, processes=2)
    status, _, error = ended(job)
    assert status == 0 and requeued(tmp_path) == 1, error
    for name in LIST["saes"]:
        (again, log), (whole, curve) = made(tmp_path, name), made(both[0], name)
        assert all(torch.equal(whole[key], again[key]) for key in whole)
        assert log == curve


@pytest.fixture
def stage(tmp_path):
    """Job scripts beside a ``make`` that does what ``$DOES`` says."""
    shutil.copytree(paths.ROOT / "cluster", tmp_path / "cluster")
    make = tmp_path / "slurm" / "make"
    make.parent.mkdir()
    make.write_text('#!/bin/bash\necho "make $*"\neval "$DOES"\n')
    make.chmod(0o755)
    return tmp_path


def chapters(stage, monkeypatch, does):
    monkeypatch.setenv("DOES", does)
    return submit("chapters.sbatch", stage, "smoke", root=stage)


def test_chapters_run_as_one_step(stage, monkeypatch):
    job = chapters(stage, monkeypatch, "echo threads $OMP_NUM_THREADS, at $PWD")
    assert ended(job)[:2] == (
        0, f"make execute PROFILE=smoke\nthreads 2, at {stage}\n"
    )  # fmt: skip
    assert requeued(stage) == 0


def test_a_job_that_fails_is_not_queued_again(stage, monkeypatch):
    assert ended(chapters(stage, monkeypatch, "exit 3"))[0] == 3
    assert requeued(stage) == 0


@pytest.mark.parametrize("status", [0, 2])
def test_a_stopped_job_is_queued_again_if_unfinished(
    status, stage, monkeypatch
):
    wait = "sleep 300 & wait $!"
    job = chapters(
        stage, monkeypatch, f"trap 'exit {status}' TERM; echo up; {wait}"
    )
    assert [job.stdout.readline() for _ in range(2)][1] == "up\n"
    job.send_signal(signal.SIGUSR1)
    assert ended(job)[0] == status
    assert requeued(stage) == (status > 0)


def test_the_example_is_a_list_that_can_be_trained(alone):
    (alone / "tiny").replace(alone / "laptop")
    listed = command.read(paths.ROOT / "cluster" / "saes.yaml")
    for name, given in listed["saes"].items():
        shape = {"expansion": 8, "k": 32, "l1": 1.0, "seed": 0, **given}
        made = train.build(
            shape["architecture"], 16, shape["hook_point"],
            **{key: shape[key] for key in ("expansion", "k", "l1", "seed")},
            **given.get("options", {}),
        )  # fmt: skip
        assert made.d_sae == 16 * given["expansion"], name


def test_a_chapter_finds_the_artifact_ready(alone, monkeypatch):
    assert command.main([write(alone)]) == 0
    monkeypatch.setattr(sae.SAE, "gradients", lambda *_: 1 / 0)
    inputs = paths.language_model("tiny", "A"), paths.tokens("tiny")
    path = train.make_sae(
        "tiny", "topk-4x", *inputs, "blocks.0.mlp.hook_post", "topk",
        k=4, expansion=4, activations=3200, batch=32, lr=0.003, seed=0,
        dead_after=500, log_every=5,
    )  # fmt: skip
    assert path == paths.sae("tiny", "topk-4x")
    path = train.make_sae(
        "tiny", "l1-4x", *inputs, architecture="l1", l1=2.0, expansion=4,
        activations=1280, batch=32, dead_after=500, log_every=5,
    )  # fmt: skip
    assert artifacts.read_manifest(path)["parameters"]["l1"] == 2
    with pytest.raises(ZeroDivisionError):  # another value trains
        train.make_sae("tiny", "l1-4x", *inputs, architecture="l1", l1=3.0,
                       activations=3200, batch=32)  # fmt: skip


def test_stopped_alone_it_exits_with_75(alone, monkeypatch, capsys):
    gradients, steps = sae.TopKSAE.gradients, []

    def watched(*arguments):
        steps.append(1)
        if len(steps) == 50:
            for _ in range(3):
                signal.raise_signal(signal.SIGTERM)
        return gradients(*arguments)

    monkeypatch.setattr(sae.TopKSAE, "gradients", watched)
    before = signal.getsignal(signal.SIGTERM)
    assert command.main([write(alone)]) == command.STOPPED == 75
    assert signal.getsignal(signal.SIGTERM) is before
    assert "stopped; the same command" in capsys.readouterr().err
    (kept,) = paths.checkpoints("tiny", "topk-4x").glob("*.pt")
    assert kept.name == "step-0000000050.pt"
    assert command.main([write(alone)]) == 0
    assert len(steps) == 100
    monkeypatch.setattr(sae.SAE, "gradients", lambda *_: 1 / 0)
    assert command.main([write(alone)]) == 0  # nothing is left to do


def test_stopped_before_training_it_exits_with_75(alone, monkeypatch):
    monkeypatch.setattr(
        command, "read", lambda _: signal.raise_signal(signal.SIGTERM)
    )
    assert command.main([write(alone)]) == 75


def changed(**changes):
    return {**LIST, **changes}


@pytest.mark.parametrize(
    "content,sentence",
    [
        (changed(modle="A"), "key in saes.yaml 'modle'; did you mean 'model'"),
        (changed(profile="tinny"), "profile 'tinny'; did you mean 'tiny'"),
        (changed(model="B"), "language model 'B'. Accepted: A"),
        ({"profile": "tiny"}, "saes.yaml names no model"),
        (changed(saes={}), "saes.yaml names no saes"),
        (changed(saes=["a"]), "saes must be lines of `name: value`"),
        (changed(saes={"a": 3}), "SAE a must be lines of `name: value`"),
        (changed(saes={"../a": {}}), "'../a' cannot name an SAE"),
        (
            changed(saes={"a": {"expantion": 3}}),
            "setting of SAE a 'expantion'; did you mean 'expansion'",
        ),
        (
            changed(saes={"a": {"architecture": "topq"}}),
            "SAE architecture 'topq'; did you mean 'topk'",
        ),
        (
            changed(saes={"a": {"k": "many"}}),
            "k of SAE a must be a whole number: 'many' is not",
        ),
        (
            changed(saes={"a": {"betas": 0.9}}),
            "betas of SAE a must be a list such as [0.1, 0.2]",
        ),
        (
            changed(saes={"a": {"hook_point": "blocks.0.mlp"}}),
            "hook point 'blocks.0.mlp'; did you mean",
        ),
        ("profile: tiny\nmodel: [", "saes.yaml is not valid YAML (line 2)"),
        ("- tiny", "saes.yaml must be lines of `name: value`"),
    ],
)
def test_bad_lists(content, sentence, alone, capsys):
    assert command.main([write(alone, content)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and sentence in said
    assert len(said.splitlines()) == 1


def test_a_list_that_is_not_there(alone, capsys):
    assert command.main([str(alone / "none.yaml")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_numbers_as_people_write_them(alone):
    written = """
        profile: tiny
        model: A
        common: {lr: 2e-3, batch: 2_048}
        saes:
          a: {activations: 1e9, l1: 2, betas: [0, 0.99]}
          b: {lr: 1, options: {bandwidth: 1e-3}}
    """
    assert command.read(Path(write(alone, written)))["saes"] == {
        "a": {
            "lr": 0.002, "batch": 2048, "activations": 10**9, "l1": 2.0,
            "betas": (0.0, 0.99),
        },
        "b": {"lr": 1.0, "batch": 2048, "options": {"bandwidth": 0.001}},
    }  # fmt: skip
