"""Activations in memory: made up with known directions, or a specimen's."""

from collections.abc import Iterator

import torch

from helpers import paths
from helpers.train.start import unit_scale

HOOK_POINT = "blocks.0.mlp.hook_post"
EXPONENT = 0.5  # how fast the directions' frequencies fall
NOISE = 0.1  # of the norm of a token


class Directions:
    """Sparse sums of unit directions plus noise.

    Direction i fires with a probability in proportion to (i + 1)^-0.5,
    ``active`` of them a token on average, with a strength drawn from an
    exponential distribution; tokens have mean norm sqrt(d_in).
    """

    def __init__(
        self, d_in: int, count: int, active: float, seed: int,
        device: str = "cpu",
    ):  # fmt: skip
        self.random = torch.Generator().manual_seed(seed)
        rows = torch.randn(count, d_in, generator=self.random)
        self.rows = rows / rows.norm(dim=1, keepdim=True)
        weights = torch.arange(1.0, count + 1).pow(-EXPONENT)
        self.chances = (weights * (active / weights.sum())).clamp_max(1)
        self.device, self.scale = device, 1.0
        self.scale = unit_scale(self.batch(4096).cpu())

    def batch(self, size: int) -> torch.Tensor:
        """The next ``size`` tokens: [size, d_in]."""
        shape = (size, len(self.rows))
        fires = torch.rand(shape, generator=self.random) < self.chances
        strengths = torch.empty(shape).exponential_(generator=self.random)
        x = (strengths * fires) @ self.rows
        noise = torch.randn(x.shape, generator=self.random)
        spread = NOISE * x.norm(dim=1).mean() / x.shape[1] ** 0.5
        return (x + spread * noise).mul_(self.scale).to(self.device)


def bank(source: Directions, size: int, count: int) -> list[torch.Tensor]:
    """Batches that stay in memory."""
    return [source.batch(size) for _ in range(count)]


def has_specimen(profile: str) -> bool:
    """Whether a profile's language model and text were made."""
    made = paths.language_model(profile, "A"), paths.tokens(profile)
    return all(path.exists() for path in made)


def specimen(
    profile: str, size: int, count: int, seed: int = 0
) -> tuple[list[torch.Tensor], float]:
    """Batches of model A's activations, mean norm sqrt(d_in); the scale."""
    network, tokens = load(profile)
    batches = list(_stream(network, tokens.train, size, count, seed))
    scale = unit_scale(torch.cat(batches[:8]))
    return [x * scale for x in batches], scale


def load(profile: str):
    """Language model A of a profile and its token streams."""
    from helpers.language_model.models import load_language_model
    from helpers.text.tokens import load_tokens

    network = load_language_model(paths.language_model(profile, "A"))
    return network, load_tokens(paths.tokens(profile))


def _stream(network, text, size, count, seed) -> Iterator[torch.Tensor]:
    from helpers import activations

    stream = activations.stream(
        network, text, [HOOK_POINT], batch=size, seed=seed
    )
    for _, part in zip(range(count), stream, strict=False):
        yield part[HOOK_POINT].float()
