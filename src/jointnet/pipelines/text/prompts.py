"""What a user says, as words or as embeddings -> the denoiser's text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jointnet.errors import ShapeError
from jointnet.pipelines.text.encoder import PromptEncoder
from jointnet.types import Text


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt and a negative prompt; arguments as in diffusers' pipelines.

    Attributes:
        prompt_embeds, negative_prompt_embeds: (B, L, D), instead of words.
        pooled_prompt_embeds, negative_pooled_prompt_embeds: (B, D), beside them for bases that read a pooled text (SDXL).
        clip_skip: layers of the text encoder left out, for the prompt alone.
    Raises: ShapeError if neither or both of words and embeddings are given.
    """

    prompt: str | list[str] | None = None
    negative_prompt: str | list[str] | None = None
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    pooled_prompt_embeds: Tensor | None = None
    negative_pooled_prompt_embeds: Tensor | None = None
    clip_skip: int | None = None

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.prompt_embeds is None):
            raise ShapeError("got neither or both of prompt and prompt_embeds; pass one of them")

    @property
    def says_something(self) -> bool:
        """Whether there is anything for guidance to follow or to avoid."""
        words = [self.prompt] if isinstance(self.prompt, str) else self.prompt or []
        return self.prompt_embeds is not None or any(words) or bool(self.negative_prompt) or self.negative_prompt_embeds is not None

    def encode(self, encoder: PromptEncoder | None, *, guided: bool, zeros_for_empty: bool) -> tuple[Text, Text | None]:
        """The text, and the negative text if there is guidance.

        ``zeros_for_empty``: no prompt and no negative prompt are zeros instead of the empty text's embeddings (SDXL's
        ``force_zeros_for_empty_prompt``); the training's dropped text is the same. Note: diffusers encodes an empty prompt.
        Raises: ShapeError if there is no encoder for words, or the counts differ.
        """
        text = self._positive(encoder, zeros_for_empty)
        if not guided:
            return text, None
        negative = self._negative(encoder, text, zeros_for_empty)
        if len(negative.embeds) != len(text.embeds):
            raise ShapeError(f"got {len(negative.embeds)} negative prompts for {len(text.embeds)} prompts; pass one or as many")
        return text, negative

    def _positive(self, encoder: PromptEncoder | None, zeros_for_empty: bool) -> Text:
        if self.prompt_embeds is not None:
            return _given(self.prompt_embeds, self.pooled_prompt_embeds)
        prompts = [self.prompt] if isinstance(self.prompt, str) else list(self.prompt or [])
        text = _encode_words(encoder, prompts, self.clip_skip)
        if not zeros_for_empty or all(prompts):
            return text
        return text.where(torch.tensor([not p for p in prompts]), text.zeros())

    def _negative(self, encoder: PromptEncoder | None, text: Text, zeros_for_empty: bool) -> Text:
        if self.negative_prompt_embeds is not None:
            return _given(self.negative_prompt_embeds, self.negative_pooled_prompt_embeds)
        if self.negative_prompt is None and zeros_for_empty:
            return text.zeros()
        words = self.negative_prompt
        if isinstance(words, list) and len(words) == 1:
            words = words[0]
        return _encode_words(encoder, words if isinstance(words, list) else [words or ""] * len(text.embeds))


def unconditional(encoder: PromptEncoder, *, zeros_for_empty: bool) -> Text:
    """One row: the text of a sample whose prompt was dropped."""
    text = encoder.encode(encoder.tokenize([""]))
    return text.zeros() if zeros_for_empty else text


def _given(embeds: Tensor, pooled: Tensor | None) -> Text:
    return Text(embeds, {} if pooled is None else {"text_embeds": pooled})


def _encode_words(encoder: PromptEncoder | None, prompts: list[str], clip_skip: int | None = None) -> Text:
    if encoder is None:
        raise ShapeError("got words for a pipeline without a text encoder; pass prompt_embeds and negative_prompt_embeds")
    return encoder.encode(encoder.tokenize(prompts), clip_skip)
