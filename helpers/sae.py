"""Sparse autoencoders: small classes behind one interface.

An SAE reads one hook point of one language model and nothing else. Its
weights carry SAELens' names and shapes: ``W_enc [d_in, d_sae]``,
``b_enc [d_sae]``, ``W_dec [d_sae, d_in]`` (unit rows: row i is what latent i
writes), ``b_dec [d_in]`` (taken from the input too: the pre-encoder bias).
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from helpers import kernels
from helpers.errors import InputError, unknown

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"


class SAE(torch.nn.Module):
    """What every architecture shares; see TopKSAE and L1SAE.

    ``hook_point`` names the activations it was made for. Parameters are
    drawn from ``seed``; ``b_dec`` is zero until training starts.
    """

    architecture = ""

    def __init__(self, d_in: int, d_sae: int, hook_point: str, seed: int = 0):
        super().__init__()
        self.d_in, self.d_sae, self.hook_point = d_in, d_sae, hook_point
        random = torch.Generator().manual_seed(seed)
        encoder, decoder = self._initial(random)
        # Stored with the latents as rows, as sparse steps read them.
        self.W_enc = torch.nn.Parameter(encoder.contiguous().T)
        self.b_enc = torch.nn.Parameter(torch.zeros(d_sae))
        self.W_dec = torch.nn.Parameter(decoder)
        self.b_dec = torch.nn.Parameter(torch.zeros(d_in))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Codes of activations: [batch, d_in] -> [batch, d_sae], >= 0."""
        raise NotImplementedError

    def gradients(
        self, x: torch.Tensor, dtype: torch.dtype = torch.float32
    ) -> kernels.Result:
        """Error, firings and gradients of the training loss on a batch."""
        raise NotImplementedError

    def decode(self, f: torch.Tensor) -> torch.Tensor:
        """Reconstruction from codes: [batch, d_sae] -> [batch, d_in]."""
        return f @ self.W_dec + self.b_dec

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reconstruction of activations: [batch, d_in] -> [batch, d_in]."""
        return self.decode(self.encode(x))

    def pre_activations(self, x: torch.Tensor) -> torch.Tensor:
        """(x - b_dec) W_enc + b_enc: [batch, d_in] -> [batch, d_sae]."""
        if x.shape[-1] != self.d_in:
            raise InputError(
                f"this SAE reads {self.d_in} numbers a token "
                f"({self.hook_point}), not {x.shape[-1]}"
            )
        return torch.addmm(self.b_enc, x - self.b_dec, self.W_enc)

    def check_hook_point(self, hook_point: str) -> None:
        """Raise InputError for a hook point it was not trained on."""
        if hook_point != self.hook_point:
            raise InputError(
                f"this SAE was trained on {self.hook_point} and means "
                f"nothing on {hook_point!r}; use {self.hook_point}, or an "
                "SAE trained there"
            )

    def weights(self) -> kernels.Weights:
        """The four parameters, detached: what a training step reads."""
        parts = self.W_enc, self.b_enc, self.W_dec, self.b_dec
        return kernels.Weights(*(part.detach() for part in parts))

    @torch.no_grad()
    def fold_scale(self, scale: float) -> None:
        """Take raw x after training on ``scale * x``; exact, not refitted.

        The codes of a ReLU-like SAE are positively homogeneous, so dividing
        both biases by the scale divides codes and reconstruction by it.
        """
        self.b_enc.div_(scale)
        self.b_dec.div_(scale)

    def config(self) -> dict:
        """What ``cfg.json`` says, by SAELens' names."""
        return {
            "architecture": self.architecture,
            "d_in": self.d_in,
            "d_sae": self.d_sae,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": True,
            "normalize_activations": "none",
            "reshape_activations": "none",
            "metadata": {"hook_name": self.hook_point},
        }

    def _initial(self, random: torch.Generator):
        """First encoder and decoder, both [d_sae, d_in]."""
        raise NotImplementedError


class TopKSAE(SAE):
    """f = ReLU(TopK_k((x - b_dec) W_enc + b_enc)) (Gao et al. 2024).

    The encoder starts as the transposed decoder, whose rows are unit.
    """

    architecture = "topk"

    def __init__(
        self, d_in: int, d_sae: int, hook_point: str, k: int, seed: int = 0
    ):
        if not 1 <= k <= d_sae:
            raise InputError(
                f"k must lie between 1 and d_sae = {d_sae}, not {k}"
            )
        super().__init__(d_in, d_sae, hook_point, seed)
        self.k = k

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        pre = self.pre_activations(x)
        values, indices = pre.topk(self.k, sorted=False)
        empty = torch.zeros_like(pre)
        return empty.scatter(1, indices, values.relu())

    def gradients(self, x, dtype=torch.float32):
        return kernels.topk_step(x, self.weights(), self.k, dtype)

    def config(self) -> dict:
        extra = {"k": self.k, "rescale_acts_by_decoder_norm": False}
        return super().config() | extra

    def _initial(self, random):
        rows = _unit(torch.randn(self.d_sae, self.d_in, generator=random))
        return rows.clone(), rows


class L1SAE(SAE):
    """f = ReLU((x - b_dec) W_enc + b_enc), pushed down by an L1 penalty.

    *Towards Monosemanticity*: encoder and decoder are untied and drawn
    Kaiming-uniform, the decoder's rows made unit. ``l1`` is in sum units:
    loss = mean over tokens of (||x_hat - x||^2 + l1 * sum_i f_i).
    """

    architecture = "standard"

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        hook_point: str,
        l1: float = 0.0,
        seed: int = 0,
    ):
        super().__init__(d_in, d_sae, hook_point, seed)
        self.l1 = l1

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.pre_activations(x).relu()

    def gradients(self, x, dtype=torch.float32):
        return kernels.relu_step(x, self.weights(), self.l1, dtype)

    def _initial(self, random):
        bound = (6 / self.d_in) ** 0.5
        shape = (self.d_sae, self.d_in)
        encoder, decoder = (
            torch.rand(shape, generator=random) * 2 * bound - bound
            for _ in range(2)
        )
        return encoder, _unit(decoder)


ARCHITECTURES = {cls.architecture: cls for cls in (TopKSAE, L1SAE)}


def l1_to_sum_units(
    value: float, convention: str, n: int, batch: int
) -> float:
    """An L1 coefficient as others quote it, in this project's units.

    ``n`` is d_in, ``batch`` the number of tokens in a step. Conventions:
    ``"sum"`` (ours, SAELens, dictionary_learning: both terms summed over
    dimensions, mean over tokens); ``"mean"`` (*Towards Monosemanticity*:
    squared error averaged over the n dimensions); ``"batch"``
    (1L-Sparse-Autoencoder: L1 summed over the whole batch).
    """
    factors = {"sum": 1, "mean": n, "batch": batch}
    if convention not in factors:
        raise unknown("L1 convention", convention, factors)
    return value * factors[convention]


def save(sae: SAE, folder: Path) -> None:
    """Write ``cfg.json`` and ``sae_weights.safetensors`` (SAELens)."""
    tensors = {
        name: value.detach().cpu().contiguous()
        for name, value in sorted(sae.state_dict().items())
    }
    save_file(tensors, Path(folder) / WEIGHTS)
    text = json.dumps(sae.config(), indent=1, sort_keys=True)
    (Path(folder) / CONFIG).write_text(text + "\n")


def load(folder: Path) -> SAE:
    """Read what ``save`` wrote, for inference: no gradients."""
    config = json.loads((Path(folder) / CONFIG).read_text())
    if config["architecture"] not in ARCHITECTURES:
        raise unknown(
            "SAE architecture", config["architecture"], ARCHITECTURES
        )
    extra = {"k": config["k"]} if "k" in config else {}
    sae = ARCHITECTURES[config["architecture"]](
        config["d_in"],
        config["d_sae"],
        config["metadata"]["hook_name"],
        **extra,
    )
    sae.load_state_dict(load_file(Path(folder) / WEIGHTS))
    return sae.requires_grad_(False).eval()


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=1, keepdim=True)
