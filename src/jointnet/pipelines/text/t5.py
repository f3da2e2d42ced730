"""A T5 encoder: DeepFloyd-IF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jointnet.pipelines.text.encoder import ConvertPrompts, as_they_are, ids_and_mask
from jointnet.types import Text

MAX_TOKENS = 77
"""T5 takes more; DeepFloyd-IF was trained with these."""


@dataclass(frozen=True)
class T5PromptEncoder:
    """A PromptEncoder; prompts are stripped and put in lower case, as diffusers does for this base."""

    tokenizer: Any
    text_encoder: Any
    device: torch.device
    convert: ConvertPrompts = as_they_are

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> ids and mask (B, 2, 77)."""
        return ids_and_mask(self.tokenizer, [p.lower().strip() for p in self.convert(list(prompts), self.tokenizer)], MAX_TOKENS)

    @torch.no_grad()
    def encode(self, tokens: Tensor, clip_skip: int | None = None) -> Text:  # noqa: ARG002 - CLIP's alone
        """Tokens (B, 2, L) -> last hidden states (B, L, D)."""
        ids, mask = tokens.to(self.device).unbind(1)
        return Text(self.text_encoder(ids, attention_mask=mask).last_hidden_state)
