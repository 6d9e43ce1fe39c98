"""Our side: ``helpers.train.fit`` or ``train``, fed one batch at a time.

The loop runs as it is, in a thread that waits for each batch; a step lasts
from the batch's arrival until the loop asks for the next. Nothing inside
the loop is called from here.
"""

import contextlib
import os
import queue
import threading

import torch

from helpers import kernels, sae, train
from helpers.train import Settings
from tests.bench.versions import Task, Version

NATIVE, PLAIN = "native kernels", "plain PyTorch"
CHOICES = {NATIVE: "", PLAIN: "reference"}


class Ours:
    """A run of our loop; ``setting``: which kernels it may use."""

    def __init__(self, task: Task, setting: str, fits: bool = False):
        self.setting, self.task = setting, task
        self.asked, self.given = queue.SimpleQueue(), queue.SimpleQueue()
        with chosen(setting):
            self.model = sae.build(
                task.architecture, task.d_in, "bench",
                expansion=task.d_sae // task.d_in, k=task.k,
                l1=task.coefficient, seed=task.seed, **_options(task),
            ).to(task.device)  # fmt: skip
        self.settings = Settings(
            activations=task.steps * task.batch, batch=task.batch,
            lr=task.lr, dead_after=task.dead_after, seed=task.seed,
        )  # fmt: skip
        self.loop = train.fit if fits else train.train
        self.thread = None

    def step(self, x):
        with chosen(self.setting):
            if self.thread is None:
                self.thread = threading.Thread(target=self._run, daemon=True)
                self.thread.start()
                self._wait()
            self.given.put(x)
            self._wait()

    @torch.no_grad()
    def codes(self, x):
        if "batchtopk" not in self.task.architecture:
            return self.model.encode(x)
        pre = self.model.pre_activations(x).relu().flatten()
        values, places = pre.topk(self.task.k * len(x), sorted=False)
        kept = torch.zeros_like(pre).scatter_(0, places, values)
        return kept.view(len(x), -1)

    @torch.no_grad()
    def rebuild(self, codes):
        return self.model.decode(codes)

    def directions(self):
        return self.model.W_dec.detach()

    @torch.no_grad()
    def set_bias(self, value):
        self.model.b_enc.fill_(value)

    def close(self):
        if self.thread:
            self.given.put(None)
            self.thread.join()
            self.thread = None

    def _run(self):
        try:
            self.loop(self.model, self._batches(), self.settings)
        except BaseException as error:  # told by the step that waits
            self.asked.put(error)
        else:
            self.asked.put(None)

    def _batches(self):
        self.asked.put(None)
        while (x := self.given.get()) is not None:
            yield x
            self.asked.put(None)

    def _wait(self):
        if (error := self.asked.get()) is not None:
            raise error


@contextlib.contextmanager
def chosen(setting: str):
    """Let only a setting's kernels run, and draw no progress bar."""
    names = {kernels.CHOICE: CHOICES[setting], "BOOK_PROGRESS": os.devnull}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def backend(setting: str) -> str:
    """What really runs under a setting: "native" or "reference"."""
    with chosen(setting):
        return kernels.backend()


def _options(task: Task) -> dict:
    if task.architecture == "jumprelu":
        return {"target_l0": task.coefficient}
    if task.architecture == "matryoshka_batchtopk":
        return {"widths": task.widths}
    return {}


def _version(setting: str) -> Version:
    def make(task, fits=False):
        return Ours(task, setting, fits)

    return Version("ours", setting, make, ours=True)


VERSIONS = [_version(setting) for setting in CHOICES]
