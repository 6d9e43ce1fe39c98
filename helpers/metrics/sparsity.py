"""How sparse the codes are: L0, L1, density, dead and rare latents.

A latent *fires* on a token where its activation is above a threshold,
``FIRES`` unless another is stated. Above zero is not the same: in floating
point a code of 1e-7 is rounding, and counting it has been seen to raise L0
from 1.6 to 7.7.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from helpers.errors import InputError, unknown
from helpers.features import THRESHOLD
from helpers.metrics.arrays import rows, table
from helpers.metrics.reconstruction import Reconstruction

if TYPE_CHECKING:
    import torch

    from helpers.sae import SAE

FIRES = THRESHOLD  # a latent fires on a token with more activation than it
FLOOR = 10**-6.5  # 1L-Sparse-Autoencoder adds it to densities before log10


class Dead(NamedTuple):
    """A convention: dead is what has not been above ``threshold`` lately."""

    threshold: float
    window: int  # tokens


DEAD = {
    "Towards Monosemanticity": Dead(0.0, 100_000_000),
    "OpenAI": Dead(1e-3, 10_000_000),
    "SAELens": Dead(0.0, 1000 * 4096),  # 1,000 steps of its default batch
}
RARE = {  # densities below which a latent is called rare, or ultra-low
    "Towards Monosemanticity": 1e-6,
    "SAELens": 1e-5,  # it counts those below 1e-6 too
    "1L reset": 10**-5.5,
    "1L rare": 1e-4,
}


@dataclass
class Codes(Reconstruction):
    """Sums over the tokens of some text, all float64; ``+`` pools them."""

    firings: np.ndarray  # [d_sae], tokens each latent fires on
    absolute: float  # of the sum over latents of |f|

    @property
    def l0(self) -> float:
        """Mean number of latents that fire on a token."""
        return float(self.firings.sum() / self.tokens)

    @property
    def l1(self) -> float:
        """Mean over tokens of the sum of |f| (units of the activations)."""
        return self.absolute / self.tokens

    @property
    def density(self) -> np.ndarray:
        """Share of tokens that each latent fires on: [d_sae]."""
        return self.firings / self.tokens

    @property
    def dead(self) -> float:
        """Share of latents that fire on none of these tokens."""
        return float((self.firings == 0).mean())


def code_sums(
    sae: "SAE", x: "torch.Tensor", threshold: float = FIRES
) -> Codes:
    """The sums of ``Codes`` for activations [tokens, d_in]."""
    return reconstruct(sae, x, threshold)[1]


def reconstruct(
    sae: "SAE", x: "torch.Tensor", threshold: float = FIRES
) -> tuple["torch.Tensor", Codes]:
    """x rebuilt [tokens, d_in], and the sums that this took."""
    f = sae.encode(x)
    rebuilt = sae.decode(f, x)
    codes = Codes.of(
        x,
        rebuilt,
        firings=(f > threshold).sum(0).double().cpu().numpy(),
        absolute=f.abs().double().sum().item(),
    )
    return rebuilt, codes


def log_density(density: np.ndarray, added: float = 0.0) -> np.ndarray:
    """log10 of densities [d_sae]; -inf where a latent never fires.

    ``added`` comes before the logarithm: with ``FLOOR``, as in Nanda's
    1L-Sparse-Autoencoder, silent latents stand at -6.5, a place that looks
    like a measurement.
    """
    with np.errstate(divide="ignore"):
        return np.log10(np.asarray(density, dtype=np.float64) + added)


def ultra_low_density(
    firings: np.ndarray, tokens: int, below: float = 1e-6
) -> np.ndarray:
    """Latents that fire, but on less than ``below`` of tokens: [d_sae] bool.

    ``firings``: [d_sae] counts over ``tokens``. Silent latents are not
    among them (in Nanda's "rare" they are). InputError where the text is so
    short that one firing is more than that: none could be found.
    """
    if tokens * below <= 1:
        raise InputError(
            f"one firing in {tokens:,} tokens is not below a density of "
            f"{below:g}; use more than {1 / below:,.0f} tokens, or a higher "
            "bound"
        )
    return (firings > 0) & (firings < below * tokens)


def since_fired(f, threshold: float = FIRES) -> np.ndarray:
    """Tokens after the last on which each latent fired: [d_sae].

    ``f``: [tokens, d_sae], in the order of the text. 0 where it fired on
    the last token, the number of tokens where it never did.
    """
    fires = rows(f, "f") > threshold
    after = fires.flip(0).int().argmax(0)
    return after.where(fires.any(0), len(fires)).cpu().numpy()


def dead(f, threshold: float = FIRES, window: int | None = None) -> np.ndarray:
    """Latents that fire on none of the last ``window`` tokens: [d_sae] bool.

    ``f``: [tokens, d_sae]. Threshold and window are the whole difference
    between the conventions in ``DEAD``; by default all tokens are looked
    at. InputError where there are fewer tokens than the window.
    """
    silent = since_fired(f, threshold)
    window = len(f) if window is None else window
    if not 1 <= window <= len(f):
        raise InputError(
            f"whether a latent is silent for {window:,} tokens cannot be "
            f"told from {len(f):,}"
        )
    return silent >= window


class RareSimilarity(NamedTuple):
    """Each row beside the mean rare row; see ``rare_similarity``."""

    cosine: np.ndarray  # [d_sae], with the mean rare row
    projection: np.ndarray  # [d_sae], on it (units of the rows)


def rare_similarity(vectors, rare: np.ndarray) -> RareSimilarity:
    """How far latents point along the mean direction of the rare ones.

    ``vectors`` [d_sae, d_in]: encoder columns (``W_enc.T``) or decoder
    rows; ``rare`` [d_sae] bool. Nanda 2023 found a rare cluster of almost
    one direction in the encoder, not in the decoder. A rare row is part of
    the mean that it is compared with: n random ones have a cosine of
    1/sqrt(n) with theirs, so compare with random rows. InputError without
    a rare one.
    """
    vectors, rare = table(vectors, "vectors"), np.asarray(rare, dtype=bool)
    if rare.shape != vectors.shape[:1]:
        raise unknown("shape of rare", rare.shape, [vectors.shape[:1]])
    if not rare.any():
        raise InputError("no latent is rare: there is no mean of rare ones")
    mean = vectors[rare].mean(0)
    projection = vectors @ (mean / np.linalg.norm(mean))
    return RareSimilarity(
        projection / np.linalg.norm(vectors, axis=1), projection
    )
