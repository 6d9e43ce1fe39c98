"""What is counted while an SAE trains: error, L0, silence of each latent."""

import math
import statistics
from collections import deque

import torch

from helpers import kernels, ranks, sae
from helpers.errors import InputError
from helpers.train.settings import Settings, learning_rate

EXPLODED = 1e4  # times the usual loss
USUAL = 1000  # steps whose median is the usual loss


class Diverged(InputError):
    """The loss is not finite, or exploded; nothing good can follow."""


class Meter:
    """Counts on the device, read with each line of log and only then.

    ``dead`` [n] lists the latents silent for ``dead_after`` tokens; it is
    brought up to date with each line of log. Over several ranks each counts
    its own slice of the batches, and a line adds them up.
    """

    def __init__(self, model: sae.SAE, settings: Settings):
        self.settings, self.tokens, self.step = settings, 0, 0
        self.silent = model.W_dec.new_zeros(len(model.W_dec))
        self.revives = model.revives
        self.dead = torch.empty(0, dtype=torch.long)
        self.usual: deque[float] = deque(maxlen=USUAL)
        self._clear(model.b_dec)

    def update(
        self, x: torch.Tensor, result: kernels.Result, tokens: int
    ) -> None:
        """Take in one step: this rank's slice of a batch of ``tokens``."""
        self.step, self.tokens = self.step + 1, self.tokens + tokens
        self.silent.add_(tokens).mul_(result.firings == 0)
        norms = [torch.linalg.vector_norm(part) for part in (result.error, x)]
        self.losses.append(torch.stack(norms).square())  # no temporary
        self.mean += x.sum(0)
        self.fired += result.firings.sum()
        self.count += tokens

    @property
    def is_due(self) -> bool:
        """Whether the last step ends a line of log."""
        last = self.step == self.settings.steps
        return last or self.step % self.settings.log_every == 0

    @property
    def is_whole(self) -> bool:
        """Whether no step was taken since the last line of log."""
        return self.count == 0

    def line(self) -> dict:
        """A line of log; the sums start again from zero.

        Raises Diverged if a step's loss was not finite or exploded.
        """
        losses, mean, fired = self._read()
        self.usual += [error / self._batch for error, _ in losses]
        error, square = (sum(column) for column in zip(*losses, strict=True))
        square -= mean.pow(2).sum().item() / self.count
        self.silent = ranks.least(self.silent)
        silent = self.silent >= self.settings.dead_after
        if self.revives:
            self.dead = silent.nonzero().flatten()
        line = {
            "step": self.step,
            "tokens": self.tokens,
            "lr": learning_rate(self.step - 1, self.settings),
            "fvu": error / max(square, 1e-30),
            "l0": fired / self.count,
            "dead": silent.float().mean().item(),
        }
        self._clear(self.mean)
        return line

    def state(self) -> dict:
        """All that it knows, for a checkpoint. Raises Diverged."""
        if self.losses:
            self._read()  # nothing broken is kept
        names = ("tokens", "step", "silent", "dead", "losses", "mean",
                 "fired", "count")  # fmt: skip
        kept = {name: getattr(self, name) for name in names}
        return kept | {"usual": list(self.usual)}

    def restore(self, state: dict) -> None:
        """Go on counting from a ``state``."""
        device = self.silent.device
        for name, value in state.items():
            if name == "usual":
                value = deque(value, maxlen=USUAL)
            elif name == "losses":
                value = [part.to(device) for part in value]
            elif isinstance(value, torch.Tensor):
                value = value.to(device)
            setattr(self, name, value)

    def _read(self) -> tuple[list[list[float]], torch.Tensor, float]:
        """Error and square of each step, and the sums, over all ranks."""
        losses = torch.stack(self.losses).double()
        mean, fired = self.mean.double(), self.fired.clone()
        ranks.add([losses, mean, fired])
        self._check(losses.tolist())
        return losses.tolist(), mean, fired.item()

    def _check(self, losses: list[list[float]]) -> None:
        found = [error / self._batch for error, _ in losses]
        finite = [loss for loss in found if math.isfinite(loss)] or [1.0]
        usual = max(statistics.median(self.usual or finite), 1e-30)
        first = self.step - len(losses)
        for step, (error, square) in enumerate(losses, first + 1):
            if not math.isfinite(error):
                raise Diverged(self._sentence(step, "is not finite", square))
            # Worse than nothing at all: so a loss near zero may rise again.
            if error > max(EXPLODED * usual * self._batch, square):
                times = error / self._batch / usual
                what = f"grew to {times:,.0f} times the usual"
                raise Diverged(self._sentence(step, what, square))

    def _sentence(self, step: int, what: str, square: float) -> str:
        if math.isfinite(square):
            advice = f"lower the learning rate (now {self.settings.lr:g})"
        else:
            advice = "that batch itself holds values that are not finite"
        return (
            f"the SAE's loss {what} at step {step} (activations "
            f"{(step - 1) * self._batch} to {step * self._batch - 1} of the "
            f"stream); {advice}"
        )

    @property
    def _batch(self) -> int:
        return self.count // len(self.losses)

    def _clear(self, like: torch.Tensor) -> None:
        self.losses: list[torch.Tensor] = []
        self.mean, self.count = torch.zeros_like(like.detach()), 0
        self.fired = torch.zeros(
            (), dtype=torch.float64, device=like.device
        )
