"""Attention of a branch through diffusers' attention backends, which its own processor of U-Nets never asks for."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

from jointnet.errors import UnsupportedBaseError


class DispatchedAttention:
    """Self- or cross-attention of a transformer block; ``ModelMixin.set_attention_backend`` chooses what computes it."""

    _attention_backend: Any = None
    _parallel_config: Any = None

    def __call__(
        self,
        attn: Any,  # an Attention, whose layers diffusers leaves untyped
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,  # noqa: ARG002 - no such layer reads it
        **kwargs: Any,  # noqa: ARG002 - what callers of other processors pass
    ) -> Tensor:
        """Shapes: hidden_states (B, N, D), encoder_hidden_states (B, L, D') -> (B, N, D)."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer(x).unflatten(-1, (attn.heads, -1))  # (B, N, heads, d)
            for layer, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        if attention_mask is not None:
            mask = attn.prepare_attention_mask(attention_mask, context.shape[1], len(context))
            attention_mask = mask.unflatten(0, (len(context), attn.heads))
        attended = dispatch_attention_fn(query, key, value, attn_mask=attention_mask, backend=self._attention_backend)
        hidden_states = attended.flatten(-2).to(query.dtype)
        for layer in attn.to_out:
            hidden_states = layer(hidden_states)
        return hidden_states


def dispatch_attention(network: nn.Module) -> bool:
    """Let the attention layers of a network ask for a backend. Returns: True if they did so before.

    Raises: UnsupportedBaseError for layers that no backend can compute, or whose processors somebody else has set.
    """
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, Attention)]
    for name, layer in layers:
        if isinstance(layer.processor, DispatchedAttention):
            continue
        if type(layer.processor) is not AttnProcessor2_0 or not _is_plain(layer):
            raise UnsupportedBaseError(
                f"got attention of {type(layer.processor).__name__} in {name}; backends are for diffusers' plain attention only: "
                "undo what has set another (fuse_qkv_projections, a processor of your own), or do without"
            )
    was_chosen = all(isinstance(layer.processor, DispatchedAttention) for _, layer in layers)
    for _, layer in layers:
        layer.set_processor(DispatchedAttention())  # pyright: ignore[reportArgumentType] - it names its own processors only
    return was_chosen


def withdraw_attention(network: nn.Module) -> None:
    """Undo ``dispatch_attention``."""
    for module in network.modules():
        if isinstance(module, Attention) and isinstance(module.processor, DispatchedAttention):
            module.set_processor(AttnProcessor2_0())  # pyright: ignore[reportArgumentType] - as above


def _is_plain(layer: Attention) -> bool:
    """True if nothing is done but to attend."""
    others = (layer.spatial_norm, layer.group_norm, layer.norm_cross, layer.norm_q, layer.norm_k)
    return not any(others) and not layer.residual_connection and layer.rescale_output_factor == 1
