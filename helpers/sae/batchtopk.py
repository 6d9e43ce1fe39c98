"""BatchTopK (Bussmann et al. 2024) and its Matryoshka form (2025).

Trained with k latents a token *on average over the batch*; used with one
threshold for every latent and token, which makes it a JumpReLU SAE there.
"""

from collections.abc import Sequence

import torch

from helpers import kernels
from helpers.errors import InputError
from helpers.sae.base import SAE, check_k, directions

# Share of the threshold's running mean kept at each step. One step's value,
# a quantile of k * batch codes, hardly varies; what it must not do is lag.
KEPT = 0.9
MARGIN = 0.95  # candidates start at this share of the last step's cut
# Shares of d_sae that the nested dictionaries have, unless said otherwise:
# those of dictionary_learning's demo (its groups of 1/32, 1/16, 1/8, 1/4 and
# the rest, added up). SAELens has no default.
PREFIXES = (1 / 32, 3 / 32, 7 / 32, 15 / 32, 1.0)


def alone(values: torch.Tensor) -> tuple[torch.Tensor, slice]:
    """How one process joins a 1-D tensor over all: see BatchTopKSAE."""
    return values, slice(None)


class BatchTopKSAE(SAE):
    """f = ReLU((x - b_dec) W_enc + b_enc), the top k * batch of a batch.

    Inference keeps what exceeds ``threshold``: the running mean of the
    smallest activation that a step kept, divided by the sum of its own
    weights, so that it is unbiased from the first step on. Its sums are
    buffers: they go into checkpoints with the weights.

    Where several processes share a batch, ``gather`` joins a 1-D tensor
    (of another length on each) over all of them, in the order of their
    tokens; it returns the whole and the slice that is this process's own.
    """

    architecture = "batchtopk"
    revives = True
    scaled = ("b_enc", "b_dec", "threshold_sum")

    def __init__(
        self, d_in: int, d_sae: int, hook_point: str, k: int, seed: int = 0
    ):
        check_k(k, d_sae)
        super().__init__(d_in, d_sae, hook_point, seed)
        self.k = k
        zero = torch.zeros((), dtype=torch.float64)
        self.register_buffer("threshold_sum", zero)
        self.register_buffer("threshold_weight", zero.clone())
        self.gather = alone
        self._floor = 0.0  # only speed depends on it, no result does

    @property
    def threshold(self) -> torch.Tensor:
        """What a code must exceed at inference: scalar, float32."""
        weight = self.threshold_weight.clamp_min(1e-300)
        return (self.threshold_sum / weight).float()

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        pre = self.pre_activations(x)
        return pre.relu() * (pre > self.threshold)

    def config(self) -> dict:
        config = super().config() | {"architecture": "jumprelu"}
        origin = {
            "training_architecture": self.architecture,
            "training_architecture_details": self._details(),
        }
        return config | {"metadata": config["metadata"] | origin}

    def tensors(self):
        found = {name: part.detach() for name, part in self.named_parameters()}
        return found | {"threshold": self.threshold.expand(self.d_sae)}

    def restore(self, tensors):
        tensors = dict(tensors)
        threshold = tensors.pop("threshold")[0].double()
        super().restore(
            tensors
            | {
                "threshold_sum": threshold,
                "threshold_weight": torch.ones_like(threshold),
            }
        )

    def _details(self) -> dict:
        return {"k": self.k}

    def _initial(self, random):
        rows = directions(self.d_sae, self.d_in, random)
        return rows.clone(), rows

    def _step(self, x, dtype, low):
        w = self.weights()
        codes = self._choose(x, w, dtype, low)
        return kernels.sparse_step(x, w, codes, dtype, low)

    def _choose(self, x, w, dtype, low) -> kernels.Codes:
        """The top k * batch, over all processes; threshold brought on."""
        tokens = self.gather(x.new_tensor([len(x)]))[0].sum()
        count = round(self.k * int(tokens))
        for floor in dict.fromkeys((self._floor, 0.0)):
            found = kernels.candidates(x, w, floor, count, dtype, low)
            values, mine = self.gather(found.values)
            if len(values) >= count:
                break
        kept = kernels.largest(values, count)
        if len(values):
            smallest = values.where(kept, torch.inf).min().double()
            self._follow(smallest)
            self._floor = MARGIN * float(smallest)
        return kernels.keep(found, kept[mine])

    def _follow(self, smallest: torch.Tensor) -> None:
        """One more step of the running mean and of its weights' sum."""
        self.threshold_sum.mul_(KEPT).add_((1 - KEPT) * smallest)
        self.threshold_weight.mul_(KEPT).add_(1 - KEPT)


class MatryoshkaSAE(BatchTopKSAE):
    """Nested dictionaries: each prefix of the latents rebuilds x alone.

    Loss: the *sum* over prefixes (as SAELens 6.54 adds an inner loss for
    each width to that of the whole; dictionary_learning takes their mean,
    which Adam hardly tells apart) of the mean over tokens of
    ||x_hat_m - x||^2, where x_hat_m uses the first m latents; the top
    k * batch are chosen once, over all latents. ``widths`` are the m,
    rising, the last d_sae: by default ``PREFIXES`` of it.
    """

    architecture = "matryoshka_batchtopk"

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        hook_point: str,
        k: int,
        seed: int = 0,
        *,
        widths: Sequence[int] | None = None,
    ):
        check_k(k, d_sae)
        if widths is None:
            found = {int(d_sae * share) for share in PREFIXES} - {0}
            widths = sorted(found)
        rising = all(a < b for a, b in zip([0, *widths], widths, strict=False))
        if not widths or not rising or widths[-1] != d_sae:
            raise InputError(
                f"widths must rise from 1 or more to d_sae = {d_sae}, not "
                f"{list(widths)}"
            )
        super().__init__(d_in, d_sae, hook_point, k, seed)
        self.widths = tuple(widths)

    def _details(self) -> dict:
        return {"k": self.k, "matryoshka_widths": list(self.widths)}

    def _step(self, x, dtype, low):
        w = self.weights()
        codes = self._choose(x, w, dtype, low)
        return kernels.nested_step(x, w, codes, self.widths, dtype, low)
