"""The TopK SAE (Gao et al. 2024, *Scaling and evaluating SAEs*)."""

import torch

from helpers import kernels
from helpers.sae.base import SAE, check_k, directions


class TopKSAE(SAE):
    """f = ReLU(TopK_k((x - b_dec) W_enc + b_enc)).

    The encoder starts as the transposed decoder, whose rows are unit.
    """

    architecture = "topk"
    revives = True

    def __init__(
        self, d_in: int, d_sae: int, hook_point: str, k: int, seed: int = 0
    ):
        check_k(k, d_sae)
        super().__init__(d_in, d_sae, hook_point, seed)
        self.k = k

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        pre = self.pre_activations(x)
        if self.convention.rescale_acts_by_decoder_norm:
            pre = pre * self.W_dec.norm(dim=-1)
        values, indices = pre.topk(self.k, sorted=False)
        empty = torch.zeros_like(pre)
        return empty.scatter(-1, indices, values.relu())

    def decode(self, f, x=None):
        if self.convention.rescale_acts_by_decoder_norm:
            f = f * (1 / self.W_dec.norm(dim=-1))
        return super().decode(f, x)

    def config(self) -> dict:
        rescale = self.convention.rescale_acts_by_decoder_norm
        extra = {"k": self.k, "rescale_acts_by_decoder_norm": rescale}
        return super().config() | extra

    def _step(self, x, dtype, low):
        return kernels.topk_step(x, self.weights(), self.k, dtype, low)

    def _initial(self, random):
        rows = directions(self.d_sae, self.d_in, random)
        return rows.clone(), rows
