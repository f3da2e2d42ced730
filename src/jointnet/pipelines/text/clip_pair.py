"""Two CLIP text encoders side by side: Stable Diffusion XL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jointnet.pipelines.text.encoder import ConvertPrompts, as_they_are, ids_and_mask
from jointnet.types import Text


@dataclass(frozen=True)
class ClipPairEncoder:
    """A PromptEncoder; both encoders read the same prompt. The first of a pair may be missing, as in diffusers."""

    tokenizers: Sequence[Any]
    text_encoders: Sequence[Any]
    device: torch.device
    convert: ConvertPrompts = as_they_are

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> one row of ids an encoder (B, K, L)."""
        rows = [ids_and_mask(t, self.convert(list(prompts), t), t.model_max_length)[:, 0] for t in self.tokenizers]
        return torch.stack(rows, 1)

    @torch.no_grad()
    def encode(self, tokens: Tensor, clip_skip: int | None = None) -> Text:
        """Tokens (B, K, L) -> last but one hidden states side by side, and the last encoder's pooled text as ``text_embeds``."""
        layer = -((clip_skip or 0) + 2)
        rows = tokens.to(self.device).unbind(1)
        outputs = [encoder(ids, output_hidden_states=True) for encoder, ids in zip(self.text_encoders, rows, strict=True)]
        embeds = torch.cat([output.hidden_states[layer] for output in outputs], -1)
        return Text(embeds, {"text_embeds": outputs[-1].text_embeds})
