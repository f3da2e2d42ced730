"""Prompts -> text embeddings, for bases with one CLIP text encoder (SD 1/2)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jointnet.errors import PromptTruncatedWarning


@torch.no_grad()
def encode_clip(tokenizer: Any, text_encoder: Any, prompts: Sequence[str], *, device: Any, clip_skip: int | None = None) -> Tensor:
    """Encode prompts with a CLIP text encoder -> (B, L, D), L being the tokenizer's limit.

    ``clip_skip`` takes the hidden states that many layers before the last, through the final norm, as diffusers does.
    Warns PromptTruncatedWarning, naming what was cut.
    """
    limit = tokenizer.model_max_length
    tokens = tokenizer(list(prompts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    whole = tokenizer(list(prompts), verbose=False).input_ids
    for prompt, ids in zip(prompts, whole, strict=True):
        if len(ids) > limit:
            cut = tokenizer.decode(ids[limit - 1 : -1]).strip()
            warnings.warn(
                f"the prompt {prompt[:40]!r}... has {len(ids) - 2} tokens, the text encoder takes {limit - 2}; cut: {cut!r}",
                PromptTruncatedWarning,
                stacklevel=3,
            )
    mask = tokens.attention_mask if getattr(text_encoder.config, "use_attention_mask", False) else None
    output = text_encoder(
        tokens.input_ids.to(device),
        attention_mask=None if mask is None else mask.to(device),
        output_hidden_states=clip_skip is not None,
    )
    if clip_skip is None:
        return output.last_hidden_state
    return text_encoder.text_model.final_layer_norm(output.hidden_states[-(clip_skip + 1)])
