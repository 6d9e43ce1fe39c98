"""What every sparse autoencoder shares.

An SAE reads one hook point of one language model and nothing else. Its
weights carry SAELens' names and shapes: ``W_enc [d_in, d_sae]``,
``b_enc [d_sae]``, ``W_dec [d_sae, d_in]`` (unit rows: row i is what latent i
writes), ``b_dec [d_in]`` (taken from the input too: the pre-encoder bias).
"""

from dataclasses import dataclass

import torch

from helpers import kernels
from helpers.errors import InputError

SAELENS = "6.54.0"  # whose format of cfg.json is followed
EPS = 1e-5  # added to a token's deviation by layer norm (OpenAI, SAELens)


@dataclass(frozen=True)
class Convention:
    """Where published SAEs differ from ours; field names are SAELens'."""

    apply_b_dec_to_input: bool = True
    normalize_activations: str = "none"  # or "layer_norm"
    rescale_acts_by_decoder_norm: bool = False  # TopK only


OURS = Convention()


class SAE(torch.nn.Module):
    """The interface: see the architectures' own modules.

    ``hook_point`` names the activations it reads, ``output_hook_point``
    those it rebuilds: the same, but in a transcoder. Parameters are drawn
    from ``seed``; ``b_dec`` is zero until training starts.
    """

    architecture = ""  # SAELens' name of what is trained
    trains = kernels.Weights  # its parameters
    revives = False  # whether AuxK is to revive its dead latents
    is_unit_decoder = True  # the loop makes W_dec's rows unit at each step
    scaled = ("b_enc", "b_dec")  # divided when a scale is folded

    def __init__(self, d_in: int, d_sae: int, hook_point: str, seed: int = 0):
        super().__init__()
        self.d_in, self.d_sae = d_in, d_sae
        self.hook_point = self.output_hook_point = hook_point
        self.convention = OURS
        random = torch.Generator().manual_seed(seed)
        encoder, decoder = self._initial(random)
        # Stored with the latents as rows, as sparse steps read them.
        self.W_enc = torch.nn.Parameter(encoder.contiguous().T)
        self._add_parameters()
        self.W_dec = torch.nn.Parameter(decoder)
        self.b_dec = torch.nn.Parameter(torch.zeros(d_in))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Codes of activations: [..., d_in] -> [..., d_sae], >= 0."""
        raise NotImplementedError

    def gradients(
        self,
        x: torch.Tensor,
        dtype: torch.dtype = torch.float32,
        low: kernels.Matrices | None = None,
    ) -> kernels.Result:
        """Error, firings and gradients of the training loss on a batch.

        ``x``: [batch, d_in], float32. Matrix products run in ``dtype``,
        weights, sums and gradients (by parameter name) stay float32.
        ``low``: the matrices in ``dtype``, where they are at hand
        (``kernels.Adam.low``).
        InputError for a published SAE of another convention.
        """
        if self.convention != OURS:
            raise InputError(
                "this SAE was loaded for inference and its conventions "
                "(normalisation, biases) are not those of the training loop"
            )
        return self._step(x, dtype, low)

    def decode(
        self, f: torch.Tensor, x: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Reconstruction from codes: [..., d_sae] -> [..., d_in].

        An SAE with layer norm needs the activations ``x`` as well, to undo
        it; InputError without.
        """
        rebuilt = f @ self.W_dec + self.b_dec
        if self.convention.normalize_activations == "none":
            return rebuilt
        if x is None:
            raise InputError(
                "this SAE normalises each token; decode its codes with the "
                "activations they came from: decode(f, x)"
            )
        mean, deviation = _moments(x)
        return rebuilt * deviation + mean

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Reconstruction of activations: [..., d_in] -> [..., d_in]."""
        return self.decode(self.encode(x), x)

    def centre(self, x: torch.Tensor) -> torch.Tensor:
        """What the encoder multiplies: x - b_dec, [..., d_in]."""
        if x.shape[-1] != self.d_in:
            raise InputError(
                f"this SAE reads {self.d_in} numbers a token "
                f"({self.hook_point}), not {x.shape[-1]}"
            )
        if self.convention.normalize_activations == "layer_norm":
            mean, deviation = _moments(x)
            x = (x - mean) / (deviation + EPS)
        if self.convention.apply_b_dec_to_input:
            x = x - self.b_dec
        return x

    def pre_activations(self, x: torch.Tensor) -> torch.Tensor:
        """(x - b_dec) W_enc + b_enc: [..., d_in] -> [..., d_sae].

        Product, sum and memory layout are SAELens', so that the bits are.
        """
        return self.centre(x) @ self.W_enc.contiguous() + self.b_enc

    def check_hook_point(self, hook_point: str) -> None:
        """Raise InputError for a hook point it was not trained on."""
        if hook_point != self.hook_point:
            raise InputError(
                f"this SAE was trained on {self.hook_point} and means "
                f"nothing on {hook_point!r}; use {self.hook_point}, or an "
                "SAE trained there"
            )

    def weights(self) -> tuple[torch.Tensor, ...]:
        """The parameters, detached, as a step reads them."""
        parts = self.named_parameters()
        return self.trains(**{name: part.detach() for name, part in parts})

    @torch.no_grad()
    def fold_scale(self, scale: float) -> None:
        """Take raw x after training on ``scale * x``; exact, not refitted.

        Codes are positively homogeneous in x, biases and thresholds taken
        together, so dividing the latter by the scale divides codes and
        reconstruction by it, and leaves the decoder's rows unit.
        """
        for name in self.scaled:
            getattr(self, name).div_(scale)

    def config(self) -> dict:
        """What ``cfg.json`` says of the inference form, in SAELens' names."""
        return {
            "architecture": self.architecture,
            "d_in": self.d_in,
            "d_sae": self.d_sae,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": self.convention.apply_b_dec_to_input,
            "normalize_activations": self.convention.normalize_activations,
            "reshape_activations": "none",
            "metadata": {
                "hook_name": self.hook_point,
                "sae_lens_version": SAELENS,
            },
        }

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights of the inference form, in SAELens' names."""
        return self.state_dict()

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over what ``tensors`` gave, of the same shapes."""
        self.load_state_dict(tensors, assign=True)

    def _initial(self, random: torch.Generator):
        """First encoder and decoder, both [d_sae, d_in].

        Unless an architecture says otherwise the decoder's rows point
        anywhere and the encoder starts as its transpose, scaled such that
        all latents together give x back at about its own length.
        """
        rows = directions(self.d_sae, self.d_in, random)
        return rows * (2 * self.d_in / self.d_sae), rows

    def _add_parameters(self) -> None:
        self.b_enc = torch.nn.Parameter(torch.zeros(self.d_sae))

    def _step(self, x, dtype, low) -> kernels.Result:
        raise NotImplementedError


class PenalisedSAE(SAE):
    """One whose codes are kept few by an L1 penalty, in sum units."""

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        hook_point: str,
        l1: float = 0.0,
        seed: int = 0,
    ):
        check_positive("l1", l1, zero=True)
        super().__init__(d_in, d_sae, hook_point, seed)
        self.l1 = l1


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows divided by their lengths: [n, d_in]."""
    return rows / rows.norm(dim=1, keepdim=True)


def directions(count: int, width: int, random: torch.Generator) -> torch.Tensor:
    """Unit rows that point anywhere: [count, width]."""
    return unit(torch.randn(count, width, generator=random))


def check_k(k: float, d_sae: int) -> None:
    """Raise InputError unless k latents can be active."""
    if not 1 <= k <= d_sae:
        raise InputError(f"k must lie between 1 and d_sae = {d_sae}, not {k}")


def check_positive(name: str, value: float, zero: bool = False) -> None:
    """Raise InputError unless a setting is positive (or ``zero`` is fine)."""
    if not (value > 0 or zero and value == 0):
        least = "0 or more" if zero else "more than 0"
        raise InputError(f"{name} must be {least}, not {value}")


def _moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and (unbiased) standard deviation of each token, [..., 1].

    The deviation is taken of the centred values, as OpenAI and SAELens do:
    the same bits.
    """
    mean = x.mean(dim=-1, keepdim=True)
    return mean, (x - mean).std(dim=-1, keepdim=True)
