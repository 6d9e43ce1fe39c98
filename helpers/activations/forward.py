"""One forward pass, up to what is read.

Any TransformerLens model runs with its hooks. This book's own transformers
(ReLU, LNPre, learned positions) take the same steps without them, several
times faster, and agree to rounding.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from helpers.errors import InputError, unknown

# What the short way computes, by the end of a hook point's name.
SHORT = (
    "hook_resid_pre",
    "attn.hook_z",
    "hook_attn_out",
    "hook_resid_mid",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
)
PLAIN = {  # settings of the models that it is right for
    "act_fn": "relu",
    "attention_dir": "causal",
    "attn_only": False,
    "attn_scores_soft_cap": -1.0,
    "dtype": torch.float32,
    "n_key_value_heads": None,
    "normalization_type": "LNPre",
    "num_experts": None,
    "parallel_attn_mlp": False,
    "positional_embedding_type": "standard",
    "use_attn_scale": True,
    "use_local_attn": False,
}


def width(model, hook_point: str) -> int:
    """Numbers per token at a hook point; InputError if there is none."""
    known = model.hook_dict
    if hook_point not in known:
        raise unknown("hook point", hook_point, sorted(known))
    rows = torch.zeros((1, 2), dtype=torch.long)
    try:
        return run(model, rows, [hook_point])[hook_point].shape[-1]
    except (KeyError, ValueError) as error:  # it is switched off
        raise InputError(
            f"nothing can be read at the hook point {hook_point} ({error})"
        ) from error


@torch.no_grad()
def run(
    model,
    rows: torch.Tensor,
    hook_points: Sequence[str],
    dtype: torch.dtype = torch.float32,
) -> dict[str, torch.Tensor]:
    """Activations at some hook points: each [batch, context, d_in].

    ``rows``: [batch, context] token ids. One forward pass, no gradient; its
    matrix products run in ``dtype``, and the residual stream stays float32.
    """
    rows = rows.to(model.cfg.device)
    how = _run_without if _is_plain(model, hook_points) else _run_with_hooks
    low = dtype != torch.float32
    with torch.autocast(rows.device.type, dtype, enabled=low):
        found = how(model, rows, hook_points)
    return {name: value.to(dtype) for name, value in found.items()}


def _run_without(model, rows, hook_points) -> dict[str, torch.Tensor]:
    found, wanted = {}, set(hook_points)
    for name, value in _trace(model, rows):
        if name in wanted:
            found[name] = value.view(*rows.shape, -1)
        if len(found) == len(wanted):
            break
    return found


def _run_with_hooks(model, rows, hook_points) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}

    def keep(name):  # a TransformerBridge's hook may have another name
        def take(value, hook):
            found[name] = value.detach().flatten(2)

        return take

    model.run_with_hooks(
        rows,
        return_type=None,
        stop_at_layer=_stop(hook_points),
        fwd_hooks=[(name, keep(name)) for name in hook_points],
    )
    return found


def _stop(hook_points: Sequence[str]) -> int | None:
    """The first layer that need not run (None: all must)."""
    layers = [name.split(".") for name in hook_points]
    if any(part[0] in ("ln_final", "unembed") for part in layers):
        return None
    return max(
        int(part[1]) + 1 if part[0] == "blocks" else 0 for part in layers
    )


def _is_plain(model, hook_points: Sequence[str]) -> bool:
    """Whether the short way gives what the model would, hooks and all."""
    ends = [name.split(".", 2)[-1] for name in hook_points]
    return (
        all(end in SHORT for end in ends)
        and all(getattr(model.cfg, k, v) == v for k, v in PLAIN.items())
        and model.tokenizer is None  # one with padding masks attention
        and not any(point.fwd_hooks for point in model.hook_dict.values())
    )


def _trace(model, rows) -> Iterator[tuple[str, torch.Tensor]]:
    """Hook points in the order in which they are computed, with their
    values: each [batch * context, d_in]."""
    x = F.embedding(rows, model.W_E) + model.W_pos[: rows.shape[1]]
    x = x.flatten(0, 1)
    for layer, block in enumerate(model.blocks):
        trace = _trace_block(block, x, len(rows), model.cfg.eps)
        for name, value in trace:
            yield f"blocks.{layer}.{name}", value
        x = value


def _trace_block(block, x, batch, eps) -> Iterator[tuple[str, torch.Tensor]]:
    """One block's, from its input ``x`` to its output."""
    yield "hook_resid_pre", x
    attention, mlp = block.attn, block.mlp
    heads = _attend(attention, F.layer_norm(x, x.shape[1:], eps=eps), batch)
    yield "attn.hook_z", heads
    out = torch.addmm(attention.b_O, heads, attention.W_O.flatten(0, 1))
    yield "hook_attn_out", out
    x = x + out
    yield "hook_resid_mid", x
    normed = F.layer_norm(x, x.shape[1:], eps=eps)
    neurons = torch.addmm(mlp.b_in, normed, mlp.W_in).relu_()
    yield "mlp.hook_post", neurons
    out = torch.addmm(mlp.b_out, neurons, mlp.W_out)
    yield "hook_mlp_out", out
    yield "hook_resid_post", x + out


def _attend(attention, x, batch) -> torch.Tensor:
    """What the heads found: [batch * context, d_model] ->
    [batch * context, heads * d_head], by one product for all of them."""
    parts = attention.W_Q, attention.W_K, attention.W_V
    matrix = torch.stack(parts).permute(2, 0, 1, 3).flatten(1)
    bias = torch.stack([attention.b_Q, attention.b_K, attention.b_V])
    found = torch.addmm(bias.flatten(), x, matrix)
    heads, d_head = attention.b_Q.shape
    found = found.view(batch, -1, 3, heads, d_head).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(*found, is_causal=True)
    return mixed.transpose(1, 2).reshape(len(x), -1)
