"""One CLIP text encoder: Stable Diffusion 1 and 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jointnet.pipelines.text.encoder import ConvertPrompts, as_they_are, ids_and_mask
from jointnet.types import Text


@dataclass(frozen=True)
class ClipEncoder:
    """A PromptEncoder; ``device`` is where the text encoder runs."""

    tokenizer: Any
    text_encoder: Any
    device: torch.device
    convert: ConvertPrompts = as_they_are

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> ids and mask (B, 2, L), L being the tokenizer's limit."""
        return ids_and_mask(self.tokenizer, self.convert(list(prompts), self.tokenizer), self.tokenizer.model_max_length)

    @torch.no_grad()
    def encode(self, tokens: Tensor, clip_skip: int | None = None) -> Text:
        """Tokens (B, 2, L) -> the last hidden states, or earlier ones through the final norm, as diffusers does."""
        ids, mask = tokens.to(self.device).unbind(1)
        reads_mask = getattr(self.text_encoder.config, "use_attention_mask", False)
        output = self.text_encoder(ids, attention_mask=mask if reads_mask else None, output_hidden_states=clip_skip is not None)
        if clip_skip is None:
            return Text(output.last_hidden_state)
        inner = getattr(self.text_encoder, "text_model", self.text_encoder)  # transformers before 5.23 wraps it
        return Text(inner.final_layer_norm(output.hidden_states[-(clip_skip + 1)]))
