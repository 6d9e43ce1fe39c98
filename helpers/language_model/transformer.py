"""A small transformer, written to be trained fast on any machine.

The weights are those of a TransformerLens ``HookedTransformer``, under the
same names, so what is trained here is read there. Compared with calling
that model this saves its hooks and einsums, every copy of the logits, and
half of the memory traffic where the machine computes in bfloat16: the master
weights are float32, ``loss`` works on copies of them in ``dtype``.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.errors import InputError

CHUNK = 512  # rows of logits alive at a time: 4 MB at 4,096 pieces, cached
Weights = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The shape of a transformer: ReLU MLPs, learned positions, LNPre.

    LNPre is layer normalisation with no learned scale or offset.
    """

    layers: int
    d_model: int
    heads: int
    d_mlp: int
    context: int  # longest input in tokens
    vocab_size: int

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise InputError(f"{field.name} must be at least 1")
        if self.d_model % self.heads:
            raise InputError(
                f"d_model ({self.d_model}) must be a multiple of heads "
                f"({self.heads}): each head reads an equal share of it"
            )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's shape under its TransformerLens name."""
        d, h, f = self.d_model, self.heads, self.d_mlp
        shapes = {
            "embed.W_E": (self.vocab_size, d),
            "pos_embed.W_pos": (self.context, d),
        }
        for layer in range(self.layers):
            attention = {f"attn.W_{c}": (h, d, d // h) for c in "QKV"}
            attention |= {f"attn.b_{c}": (h, d // h) for c in "QKV"}
            attention |= {"attn.W_O": (h, d // h, d), "attn.b_O": (d,)}
            mlp = {"mlp.W_in": (d, f), "mlp.b_in": (f,)}
            mlp |= {"mlp.W_out": (f, d), "mlp.b_out": (d,)}
            block = attention | mlp
            shapes |= {f"blocks.{layer}.{k}": s for k, s in block.items()}
        unembed = {
            "unembed.W_U": (d, self.vocab_size),
            "unembed.b_U": (self.vocab_size,),
        }
        return shapes | unembed


def initial_weights(architecture: Architecture, seed: int) -> Weights:
    """TransformerLens' default start: biases 0, matrices normal with
    standard deviation 0.8 / sqrt(d_model); float32."""
    generator = torch.Generator().manual_seed(seed)
    scale = 0.8 / architecture.d_model**0.5
    return {
        name: torch.randn(shape, generator=generator) * scale
        if is_matrix(name)
        else torch.zeros(shape)
        for name, shape in architecture.shapes().items()
    }


def is_matrix(name: str) -> bool:
    """Whether a parameter is a weight matrix (the others are biases)."""
    return ".W_" in name


def loss(
    weights: Weights,
    tokens: Tensor,
    dtype: torch.dtype = torch.float32,
    neurons: list[Tensor] | None = None,
) -> Tensor:
    """Mean next-token cross-entropy in nats, computed in ``dtype``.

    tokens: int64 [batch, pos], of which pos - 1 are predicted. Gradients
    reach the float32 weights. Equals ``HookedTransformer(tokens,
    return_type="loss")``, which is the version to read first. To a list of
    ``neurons`` each layer appends its own, after the ReLU, [tokens, d_mlp].
    """
    hidden = final_residual(weights, tokens[:, :-1], dtype, neurons)
    matrix, bias = weights["unembed.W_U"], weights["unembed.b_U"]
    # The bias is one more row; zeros make the width a multiple of 16, which
    # matrix units multiply up to twice as fast as one with a row left over.
    zeros = -(len(matrix) + 1) % 16
    hidden = F.pad(F.pad(hidden, (0, 1), value=1.0), (0, zeros))
    table = F.pad(torch.cat([matrix, bias[None]]), (0, 0, 0, zeros))
    targets = tokens[:, 1:].flatten()
    return LinearCrossEntropy.apply(hidden, table.to(dtype), targets)


@torch.no_grad()
def token_losses(
    weights: Weights, tokens: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Each next token's cross-entropy in nats: float32 [batch, pos - 1]."""
    hidden = final_residual(weights, tokens[:, :-1], dtype)
    matrix = weights["unembed.W_U"].to(dtype)
    bias = weights["unembed.b_U"].to(dtype)
    targets = tokens[:, 1:].flatten()
    parts = [
        F.cross_entropy(
            torch.addmm(bias, part, matrix).float(), at, reduction="none"
        )
        for part, at in zip(
            hidden.split(CHUNK), targets.split(CHUNK), strict=True
        )
    ]
    return torch.cat(parts).view(len(tokens), -1)


def final_residual(
    weights: Weights,
    tokens: Tensor,
    dtype: torch.dtype,
    neurons: list[Tensor] | None = None,
) -> Tensor:
    """What the unembedding reads: [batch * pos, d_model] in ``dtype``.

    tokens: int64 [batch, pos]. ``neurons`` as in ``loss``.
    """
    pos = tokens.shape[1]
    x = F.embedding(tokens, weights["embed.W_E"])
    x = (x + weights["pos_embed.W_pos"][:pos]).to(dtype)
    future = x.new_full((pos, pos), float("-inf")).triu(1)
    layers = sum(name.endswith("mlp.W_in") for name in weights)
    for layer in range(layers):
        block = _block(weights, layer, dtype)
        x = x + _attention(_normalise(x), block, future)
        out, active = _mlp(_normalise(x), block)
        x = x + out
        if neurons is not None:
            neurons.append(active)
    return _normalise(x).flatten(0, 1)


class LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of ``hidden @ table`` without all its logits.

    The logits of a batch are a hundred times larger than anything else
    here. They are made CHUNK rows at a time and, while still in the cache,
    turned into probabilities and then into their own gradient (p - onehot),
    which gives both factors' gradients at once: the backward pass only
    scales them. The idea is Liger Kernel's fused linear cross-entropy.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, table: Tensor, targets: Tensor):
        """hidden [n, d], table [d, vocab], targets int64 [n] -> scalar."""
        d_hidden = torch.empty_like(hidden)
        d_table = torch.zeros_like(table, dtype=torch.float32)
        total = d_table.new_zeros(())
        logits = hidden.new_empty(CHUNK, table.shape[1])  # one for all chunks
        for start in range(0, len(hidden), CHUNK):
            rows = slice(start, start + CHUNK)
            h, at = hidden[rows], targets[rows]
            own = torch.arange(len(h), device=h.device), at
            p = torch.mm(h, table, out=logits[: len(h)])
            torch.softmax(p, dim=-1, out=p)
            total -= p[own].float().log().sum()
            p[own] -= 1
            torch.mm(p, table.T, out=d_hidden[rows])
            d_table += h.T @ p
        ctx.save_for_backward(d_hidden, d_table)
        return total / len(hidden)

    @staticmethod
    def backward(ctx, grad: Tensor):
        """The gradients from the forward pass, scaled."""
        d_hidden, d_table = ctx.saved_tensors
        scale = grad / len(d_hidden)
        dtype = d_hidden.dtype
        return d_hidden * scale.to(dtype), (d_table * scale).to(dtype), None


def _block(weights: Weights, layer: int, dtype: torch.dtype) -> Weights:
    """One layer's weights in ``dtype``, by the end of their names."""
    prefix = f"blocks.{layer}."
    return {
        name.removeprefix(prefix): value.to(dtype)
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def _normalise(x: Tensor) -> Tensor:
    """LNPre: subtract the mean, divide by the standard deviation."""
    return F.layer_norm(x, x.shape[-1:])


def _mlp(x: Tensor, block: Weights) -> tuple[Tensor, Tensor]:
    """[batch, pos, d_model] -> the same, through the ReLU neurons; and
    these, [batch * pos, d_mlp]."""
    hidden = torch.addmm(block["mlp.b_in"], x.flatten(0, 1), block["mlp.W_in"])
    active = hidden.relu()
    out = torch.addmm(block["mlp.b_out"], active, block["mlp.W_out"])
    return out.view_as(x), active


def _attention(x: Tensor, block: Weights, future: Tensor) -> Tensor:
    """[batch, pos, d_model] -> the same; ``future`` is -inf above the
    diagonal. Queries, keys and values come from one matrix product."""
    batch, pos, d_model = x.shape
    heads, _, d_head = block["attn.W_Q"].shape
    matrix = torch.cat([block[f"attn.W_{c}"] for c in "QKV"])
    matrix = matrix.transpose(0, 1).reshape(d_model, -1)
    bias = torch.cat([block[f"attn.b_{c}"] for c in "QKV"]).flatten()
    qkv = torch.addmm(bias, x.flatten(0, 1), matrix)
    qkv = qkv.view(batch, pos, 3, heads, d_head).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.flatten(1, 2).unbind(0)  # each [batch * heads, pos, d_head]
    mask = future.expand(len(q), pos, pos)
    scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=d_head**-0.5)
    mixed = torch.bmm(scores.softmax(-1), v).view(batch, heads, pos, d_head)
    mixed = mixed.transpose(1, 2).reshape(batch * pos, d_model)
    matrix = block["attn.W_O"].reshape(d_model, d_model)
    return torch.addmm(block["attn.b_O"], mixed, matrix).view_as(x)
