"""What training autoencoders costs, by arithmetic.

Counts are of floating-point operations (a multiplication and an addition are
two), bytes and seconds. The functions take numbers, or Altair parameters:
operators alone are used, so that the calculator of chapter 21 computes in
the reader's browser what is tested here.
"""

from typing import Any, NamedTuple

BUFFER = 2**16  # activations in the shuffle buffer (activations.stream)
BATCH = 4096  # activations in a step
CONTEXT = 128  # tokens that a position may look back on, and itself
HELD = 4 + 8 + 2  # bytes a parameter: weight, Adam's moments, bfloat16 copy
GRADIENT = 4  # bytes a parameter, of one autoencoder at a time
KEPT = 2  # checkpoints of each autoencoder
HOUR = 3600.0  # seconds


class Shape(NamedTuple):
    """A transformer's sizes, as its configuration names them."""

    layers: int
    d_model: int
    d_mlp: int
    heads: int
    d_head: int
    key_value_heads: int
    vocab: int
    gated: bool = False  # a third MLP matrix (GeGLU, SwiGLU)

    @property
    def d_attn(self) -> int:
        """Width of all heads together."""
        return self.heads * self.d_head


class Plan(NamedTuple):
    """Autoencoders to train; each field a number or an Altair parameter."""

    tokens: Any
    d_in: Any
    d_sae: Any
    saes: Any  # hook points of one forward pass, an autoencoder each
    cards: Any  # data parallel: each holds everything, batches are divided
    codes: Any  # [batch, d_sae] matrices held in bfloat16 (``codes_held``)
    sae_flops: Any  # a token and autoencoder
    model_flops: Any  # a token, to the last hook point
    sae_rate: Any  # floating-point operations a second and card
    model_rate: Any
    model_bytes: Any  # weights of the language model


def sae_parameters(d_in, d_sae):
    """Two matrices and two biases."""
    return 2 * d_in * d_sae + d_in + d_sae


def dense_flops(d_in, d_sae):
    """Training operations a token: five products of d_in by d_sae.

    Two forward (encode, decode) and three backward (the gradients of both
    matrices and of the codes); the activations themselves need none.
    """
    return 5 * 2 * d_in * d_sae


def topk_flops(d_in, d_sae, k):
    """The same with k active latents: one product dense, four of k rows."""
    return 2 * d_in * d_sae + 4 * 2 * d_in * k


def codes_held(kind: str) -> int:
    """Matrices of codes held in a step: dense ones have a gradient too."""
    return 1 if kind == "TopK" else 2


def layer_parameters(shape: Shape) -> int:
    """Matrices of one transformer layer: attention and MLP, no biases."""
    queries = 2 * shape.d_model * shape.d_attn  # and the output
    keys = 2 * shape.d_model * shape.key_value_heads * shape.d_head
    return queries + keys + (2 + shape.gated) * shape.d_model * shape.d_mlp


def model_parameters(shape: Shape) -> int:
    """Matrices of all layers and the embedding, counted once."""
    layers = shape.layers * layer_parameters(shape)
    return layers + shape.vocab * shape.d_model


def forward_parameters(shape: Shape, layers: int, post: bool = False) -> int:
    """Parameters used by a forward pass that stops after some layers.

    ``post``: it stops at the last one's neurons, before their output matrix.
    """
    unused = shape.d_mlp * shape.d_model if post else 0
    return layers * layer_parameters(shape) - unused


def forward_flops(parameters, layers, context, d_attn):
    """Operations a token: 2 N + 2 layers context d_attn.

    Kaplan et al. (2020), section 2.1; the second term is attention.
    """
    return 2 * parameters + 2 * layers * context * d_attn


def training_flops(forward):
    """Training a language model: the backward pass costs twice the forward
    (Kaplan et al. 2020)."""
    return 3 * forward


def bill(plan: Plan) -> dict[str, dict[str, Any]]:
    """Hours, memory of one card and disk (bytes), each by its parts.

    Two cards are taken to be twice as fast as one, which they never quite
    are. Not counted: temporaries of the language model's forward pass, the
    framework itself, and reading the text.
    """
    p = plan
    weights = sae_parameters(p.d_in, p.d_sae)
    seen = p.tokens / (p.cards * HOUR)
    batch = BATCH / p.cards * row_bytes(p.d_in, p.d_sae, p.codes)
    return {
        "hours": {
            "language model": seen * p.model_flops / p.model_rate,
            "autoencoders": seen * p.saes * p.sae_flops / p.sae_rate,
        },
        "memory": {
            "language model": p.model_bytes,
            "autoencoders": p.saes * HELD * weights,
            "shuffle buffer": p.saes * buffer_bytes(p.d_in),
            "one step": GRADIENT * weights + batch,
        },
        "disk": {
            "activations": p.saes * activations_bytes(p.tokens, p.d_in),
            "checkpoints": p.saes * KEPT * 12 * weights,
            "autoencoders": p.saes * 4 * weights,
        },
    }


def row_bytes(d_in, d_sae, codes):
    """What a step holds for each activation of its batch: codes in
    bfloat16; x, its error and what they are made from in float32."""
    return 2 * codes * d_sae + 5 * 4 * d_in


def step_bytes(d_in, d_sae, kind: str, batch=BATCH):
    """All that training one autoencoder holds, buffer and text aside."""
    state = (HELD + GRADIENT) * sae_parameters(d_in, d_sae)
    return state + batch * row_bytes(d_in, d_sae, codes_held(kind))


def buffer_bytes(d_in):
    """The shuffle buffer in bfloat16, and the half made ahead."""
    return 2 * d_in * BUFFER * 3 / 2


def activations_bytes(tokens, d_in):
    """Activations of one hook point kept on disk in 16 bits."""
    return 2 * tokens * d_in
