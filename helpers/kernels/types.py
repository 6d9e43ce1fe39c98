"""What goes into a training step and what comes out of it."""

from typing import NamedTuple

import torch


class Weights(NamedTuple):
    """What most SAEs train, or its gradients: the same shapes."""

    W_enc: torch.Tensor  # [d_in, d_sae]
    b_enc: torch.Tensor  # [d_sae]
    W_dec: torch.Tensor  # [d_sae, d_in], unit rows
    b_dec: torch.Tensor  # [d_in]


class JumpReLUWeights(NamedTuple):
    """What a JumpReLU SAE trains, or its gradients."""

    W_enc: torch.Tensor  # [d_in, d_sae]
    b_enc: torch.Tensor  # [d_sae]
    threshold: torch.Tensor  # [d_sae], >= 0
    W_dec: torch.Tensor  # [d_sae, d_in], unit rows
    b_dec: torch.Tensor  # [d_in]


class GatedWeights(NamedTuple):
    """What a Gated SAE trains, or its gradients."""

    W_enc: torch.Tensor  # [d_in, d_sae]
    b_gate: torch.Tensor  # [d_sae]
    r_mag: torch.Tensor  # [d_sae], log of magnitude over gate weights
    b_mag: torch.Tensor  # [d_sae]
    W_dec: torch.Tensor  # [d_sae, d_in], unit rows
    b_dec: torch.Tensor  # [d_in]


class Matrices(NamedTuple):
    """The two matrices in the type of the matrix products."""

    W_enc: torch.Tensor  # [d_in, d_sae]
    W_dec: torch.Tensor  # [d_sae, d_in]


class Penalty(NamedTuple):
    """What a JumpReLU SAE pays for each token's L0."""

    l0: float
    target: float | None  # L0 aimed at: quadratic about it, else linear
    bandwidth: float  # of the straight-through estimate

    def slope(self, count: torch.Tensor) -> torch.Tensor:
        """How the penalty grows with L0, for each token: [batch]."""
        if self.target is None:
            return torch.full_like(count, self.l0)
        return (count - self.target) * (4 * self.l0 / self.target)


class Result(NamedTuple):
    """What one training step found."""

    error: torch.Tensor  # [batch, d_in], x_hat - x
    firings: torch.Tensor  # [d_sae], tokens each latent was active on
    gradients: Weights | JumpReLUWeights | GatedWeights


class Codes(NamedTuple):
    """Codes of a batch that are not zero, listed token by token.

    Token t has entries ``offsets[t]`` to ``offsets[t + 1]``.
    """

    offsets: torch.Tensor  # [batch + 1], int64
    indices: torch.Tensor  # [entries], int32, the latents
    values: torch.Tensor  # [entries], float32, >= 0

    def tokens(self) -> torch.Tensor:
        """The token of each entry: [entries]."""
        counts = self.offsets.diff()
        rows = torch.arange(len(counts), device=counts.device)
        return rows.repeat_interleave(counts)

    @classmethod
    def join(cls, parts: list["Codes"]) -> "Codes":
        """The codes of successive parts of a batch, as those of one."""
        counts = torch.cat([part.offsets.diff() for part in parts])
        indices = torch.cat([part.indices for part in parts])
        values = torch.cat([part.values for part in parts])
        return cls(ends(counts), indices, values)


def ends(counts: torch.Tensor) -> torch.Tensor:
    """Where the entries of each row end, after a leading 0: [rows + 1]."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def lowered(w: NamedTuple, dtype: torch.dtype) -> Matrices:
    """The matrices of an SAE in the type of the matrix products."""
    return Matrices(w.W_enc.to(dtype), w.W_dec.to(dtype))
