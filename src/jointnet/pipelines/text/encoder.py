"""What a prompt encoder is, and what the kinds share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from jointnet.errors import PromptTruncatedWarning
from jointnet.types import Text

ConvertPrompts = Callable[[list[str], Any], list[str]]
"""(prompts, tokenizer) -> prompts in which learned words of several vectors are spelled out (textual inversion)."""


class PromptEncoder(Protocol):
    """Prompts -> tokens -> text; training keeps the tokens and encodes them again in each step."""

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> integers (B, K, L): K rows of token ids and masks, as ``encode`` reads them. Warns PromptTruncatedWarning."""
        ...

    def encode(self, tokens: Tensor, clip_skip: int | None = None) -> Text:
        """Tokens (B, K, L) -> text. ``clip_skip`` takes the hidden states that many layers earlier, for CLIP encoders."""
        ...


def ids_and_mask(tokenizer: Any, prompts: Sequence[str], limit: int) -> Tensor:
    """Token ids and attention mask, padded or cut to ``limit`` tokens, (B, 2, L).

    Warns PromptTruncatedWarning, naming what was cut.
    """
    prompts = list(prompts)
    tokens = tokenizer(prompts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    special = tokenizer.num_special_tokens_to_add()
    for prompt, ids in zip(prompts, tokenizer(prompts, verbose=False).input_ids, strict=True):
        if len(ids) > limit:
            cut = tokenizer.decode(ids[limit - 1 : -1]).strip()
            warnings.warn(
                f"the prompt {prompt[:40]!r}... has {len(ids) - special} tokens, the text encoder takes {limit - special}; cut: {cut!r}",
                PromptTruncatedWarning,
                stacklevel=2,
            )
    return torch.stack([tokens.input_ids, tokens.attention_mask], 1)


def as_they_are(prompts: list[str], _tokenizer: Any) -> list[str]:
    """Prompts without learned words."""
    return prompts
