"""How an SAE is trained: the settings and the schedule."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How to train; budgets are counted in activations seen."""

    activations: int = 3_000_000
    batch: int = 4096  # tokens in a step, over all ranks
    lr: float = 3e-3  # Adam's, at the top of the schedule
    betas: tuple[float, float] = (0.9, 0.999)
    warm_up: float = 0.05  # share of the steps over which lr rises from 0
    decay: float = 0.2  # share of the steps over which lr falls to 0
    dead_after: int = 250_000  # tokens without firing that make a latent dead
    aux: float = 1 / 32  # weight of AuxK (TopK only; Gao et al.), 0 for none
    aux_k: int = 256  # dead latents that AuxK lets rebuild the error
    # shares of the steps after which dead latents are drawn anew (L1 only;
    # 25k, 50k, 75k and 100k of Towards Monosemanticity's 1M), () for never
    resample: tuple[float, ...] = (0.025, 0.05, 0.075, 0.1)
    log_every: int = 20  # steps between two lines of log
    seed: int = 0  # of what is drawn while training

    @property
    def steps(self) -> int:
        return max(self.activations // self.batch, 1)


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, constant, linear decay to zero after the last step."""
    rise = (step + 1) / max(settings.warm_up * settings.steps, 1)
    fall = (settings.steps - step) / max(settings.decay * settings.steps, 1)
    return settings.lr * min(rise, 1.0, fall)
