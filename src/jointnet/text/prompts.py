"""Prompts -> the denoiser's text: one CLIP encoder, a pair of them, or T5, behind one protocol."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers.utils import scale_lora_layers, unscale_lora_layers
from torch import Tensor

from jointnet.errors import PromptTruncatedWarning, ShapeError
from jointnet.types import Text

ConvertPrompts = Callable[[list[str], Any], list[str]]
"""(prompts, tokenizer) -> prompts in which learned words of several vectors are spelled out (textual inversion)."""

_SPECIAL_TOKENS = 2
"""The fewest tokens a tokenizer can be asked for: the beginning and the end."""

T5_MAX_TOKENS = 77
"""T5 takes more; DeepFloyd-IF was trained with these."""


class PromptEncoder(Protocol):
    """Prompts -> tokens -> text; training encodes the tokens of each step, with gradients if the encoder is trained."""

    @property
    def max_tokens(self) -> int | None:
        """The most tokens that ``encode`` takes; None: any number."""
        ...

    def tokenize(self, prompts: Sequence[str], length: int | None = None) -> Tensor:
        """Prompts -> integers (B, K, L): K rows of token ids and masks, as ``encode`` reads them. Warns PromptTruncatedWarning.

        L is ``length``, or the number of tokens that the base was trained with.
        """
        ...

    def encode(self, tokens: Tensor, clip_skip: int | None = None) -> Text:
        """Tokens (B, K, L) -> text. ``clip_skip`` takes the hidden states that many layers earlier, for CLIP encoders."""
        ...


def as_they_are(prompts: list[str], _tokenizer: Any) -> list[str]:
    """Prompts without learned words."""
    return prompts


@dataclass(frozen=True)
class ClipEncoder:
    """One CLIP text encoder: Stable Diffusion 1 and 2. ``device`` is where it runs."""

    tokenizer: Any
    text_encoder: Any
    device: torch.device
    convert: ConvertPrompts = as_they_are

    @property
    def max_tokens(self) -> int:
        """The tokenizer's limit."""
        return self.tokenizer.model_max_length

    def tokenize(self, prompts: Sequence[str], length: int | None = None) -> Tensor:
        """Prompts -> ids and mask (B, 2, L), L being the tokenizer's limit or ``length``."""
        return ids_and_mask(self.tokenizer, self.convert(list(prompts), self.tokenizer), length or self.max_tokens)

    def encode(self, tokens: Tensor, clip_skip: int | None = None) -> Text:
        """Tokens (B, 2, L) -> the last hidden states, or earlier ones through the final norm, as diffusers does."""
        ids, mask = tokens.to(self.device).unbind(1)
        reads_mask = getattr(self.text_encoder.config, "use_attention_mask", False)
        output = self.text_encoder(ids, attention_mask=mask if reads_mask else None, output_hidden_states=clip_skip is not None)
        if clip_skip is None:
            return Text(output.last_hidden_state)
        inner = getattr(self.text_encoder, "text_model", self.text_encoder)  # transformers before 5.23 wraps it
        return Text(inner.final_layer_norm(output.hidden_states[-(clip_skip + 1)]))


@dataclass(frozen=True)
class ClipPairEncoder:
    """Two CLIP text encoders side by side, on the same prompt: SDXL. The first of a pair may be missing, as in diffusers."""

    tokenizers: Sequence[Any]
    text_encoders: Sequence[Any]
    device: torch.device
    convert: ConvertPrompts = as_they_are

    @property
    def max_tokens(self) -> int:
        """The tokenizers' limit."""
        return min(t.model_max_length for t in self.tokenizers)

    def tokenize(self, prompts: Sequence[str], length: int | None = None) -> Tensor:
        """Prompts -> one row of ids an encoder (B, K, L)."""
        rows = [ids_and_mask(t, self.convert(list(prompts), t), length or t.model_max_length)[:, 0] for t in self.tokenizers]
        return torch.stack(rows, 1)

    def encode(self, tokens: Tensor, clip_skip: int | None = None) -> Text:
        """Tokens (B, K, L) -> last but one hidden states side by side, and the last encoder's pooled text as ``text_embeds``."""
        layer = -((clip_skip or 0) + 2)
        rows = tokens.to(self.device).unbind(1)
        outputs = [encoder(ids, output_hidden_states=True) for encoder, ids in zip(self.text_encoders, rows, strict=True)]
        embeds = torch.cat([output.hidden_states[layer] for output in outputs], -1)
        return Text(embeds, {"text_embeds": outputs[-1].text_embeds})


@dataclass(frozen=True)
class T5PromptEncoder:
    """A T5 encoder: DeepFloyd-IF. Prompts are stripped and put in lower case, as diffusers does for this base."""

    tokenizer: Any
    text_encoder: Any
    device: torch.device
    convert: ConvertPrompts = as_they_are
    max_tokens: None = None

    def tokenize(self, prompts: Sequence[str], length: int | None = None) -> Tensor:
        """Prompts -> ids and mask (B, 2, 77), or of another length."""
        lowered = [p.lower().strip() for p in self.convert(list(prompts), self.tokenizer)]
        return ids_and_mask(self.tokenizer, lowered, length or T5_MAX_TOKENS)

    def encode(self, tokens: Tensor, clip_skip: int | None = None) -> Text:  # noqa: ARG002 - CLIP's only
        """Tokens (B, 2, L) -> last hidden states (B, L, D)."""
        ids, mask = tokens.to(self.device).unbind(1)
        return Text(self.text_encoder(ids, attention_mask=mask).last_hidden_state)


def prompt_encoder_of(
    tokenizers: Sequence[Any], text_encoders: Sequence[Any], device: torch.device, convert: ConvertPrompts
) -> PromptEncoder | None:
    """The encoder of a base's first and second tokenizer and text encoder; None if it has no text encoder: prompts then are embeddings."""
    first, second = text_encoders
    if second is not None:
        present = [pair for pair in zip(tokenizers, text_encoders, strict=True) if pair[1] is not None]
        return ClipPairEncoder([t for t, _ in present], [e for _, e in present], device, convert)
    if first is None:
        return None
    kind = T5PromptEncoder if first.config.model_type == "t5" else ClipEncoder  # its class is another once it is compiled
    return kind(tokenizers[0], first, device, convert)


_AXES = {
    "prompt_embeds": "BLD",
    "negative_prompt_embeds": "BLD",
    "pooled_prompt_embeds": "BD",
    "negative_pooled_prompt_embeds": "BD",
}


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt and a negative prompt; arguments as in diffusers' pipelines.

    Attributes:
        prompt_embeds, negative_prompt_embeds: (B, L, D), instead of words.
        pooled_prompt_embeds, negative_pooled_prompt_embeds: (B, D), beside them for bases that read a pooled text (SDXL).
        clip_skip: layers of the text encoder left out, for the prompt only.
    Raises: ShapeError if neither or both of words and embeddings are there, both for the negative prompt, or embeddings of other axes.
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
        if self.negative_prompt is not None and self.negative_prompt_embeds is not None:
            raise ShapeError("got both of negative_prompt and negative_prompt_embeds; pass one of them")
        for name, axes in _AXES.items():
            value: Tensor | None = getattr(self, name)
            if value is not None and value.ndim != len(axes):
                raise ShapeError(f"got {name} of shape {tuple(value.shape)}; expected ({', '.join(axes)})")

    @property
    def is_empty(self) -> bool:
        """True if there is nothing for guidance to follow or to avoid."""
        words = [self.prompt] if isinstance(self.prompt, str) else self.prompt or []
        follows = self.prompt_embeds is not None or any(words)
        return not (follows or bool(self.negative_prompt) or self.negative_prompt_embeds is not None)

    @torch.no_grad()
    def encode(self, encoder: PromptEncoder | None, *, guided: bool, zeros_for_empty: bool) -> tuple[Text, Text | None]:
        """The text, and the negative text if there is guidance.

        ``zeros_for_empty``: no prompt and no negative prompt are zeros instead of the empty text's embeddings (SDXL's
        ``force_zeros_for_empty_prompt``); the training's dropped text is the same. Note: diffusers encodes an empty prompt.
        A negative prompt in words has as many tokens as embeddings of the prompt.
        Raises: ShapeError if there is no encoder for words, or the counts or numbers of tokens differ.
        """
        text = self._positive(encoder, zeros_for_empty)
        if not guided:
            return text, None
        negative = self._negative(encoder, text, zeros_for_empty)
        if len(negative.embeds) != len(text.embeds):
            raise ShapeError(f"got {len(negative.embeds)} negative prompts for {len(text.embeds)} prompts; pass one or as many")
        if negative.embeds.shape[1:] != text.embeds.shape[1:]:
            (theirs, ours) = (" x ".join(map(str, each.embeds.shape[1:])) for each in (negative, text))
            raise ShapeError(f"got a negative prompt of {theirs} tokens x width for a prompt of {ours}; pass embeddings of one shape")
        return text, negative

    def _positive(self, encoder: PromptEncoder | None, zeros_for_empty: bool) -> Text:
        if self.prompt_embeds is not None:
            return _embedded(self.prompt_embeds, self.pooled_prompt_embeds)
        prompts = [self.prompt] if isinstance(self.prompt, str) else list(self.prompt or [])
        text = _encode_words(encoder, prompts, self.clip_skip)
        if not zeros_for_empty or all(prompts):
            return text
        return text.where(torch.tensor([not p for p in prompts]), text.zeros_like())

    def _negative(self, encoder: PromptEncoder | None, text: Text, zeros_for_empty: bool) -> Text:
        if self.negative_prompt_embeds is not None:
            return _embedded(self.negative_prompt_embeds, self.negative_pooled_prompt_embeds)
        if self.negative_prompt is None and zeros_for_empty:
            return text.zeros_like()
        words = self.negative_prompt
        if isinstance(words, list) and len(words) == 1:
            words = words[0]
        prompts = words if isinstance(words, list) else [words or ""] * len(text.embeds)
        length = None if self.prompt_embeds is None else self.prompt_embeds.shape[1]
        return _encode_words(encoder, prompts, length=length)


@torch.no_grad()
def unconditional(encoder: PromptEncoder, *, zeros_for_empty: bool) -> Text:
    """One row: the text of a sample whose prompt was dropped."""
    text = encoder.encode(encoder.tokenize([""]))
    return text.zeros_like() if zeros_for_empty else text


def on_device(text: Text | None, device: torch.device, dtype: torch.dtype | None, repeats: int) -> Text | None:
    """A text as the network reads it: in its type (None: as it is), where it runs, each row ``repeats`` times; None stays None."""
    if text is None:
        return None

    def place(value: Tensor) -> Tensor:
        return value.to(device, value.dtype if dtype is None else dtype).repeat_interleave(repeats, 0)

    return Text(place(text.embeds), {name: place(value) for name, value in text.added.items()})


@contextmanager
def scaled_adapters(text_encoders: Sequence[Any], scale: float) -> Iterator[None]:
    """LoRA layers of the text encoders at a scale, until the context ends."""
    encoders = [encoder for encoder in text_encoders if encoder is not None]
    for encoder in encoders:
        scale_lora_layers(encoder, scale)
    try:
        yield
    finally:
        for encoder in encoders:
            unscale_lora_layers(encoder, scale)


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


def _embedded(embeds: Tensor, pooled: Tensor | None) -> Text:
    return Text(embeds, {} if pooled is None else {"text_embeds": pooled})


def _encode_words(encoder: PromptEncoder | None, prompts: list[str], clip_skip: int | None = None, length: int | None = None) -> Text:
    """Words -> text of ``length`` tokens; what is beyond the encoder's limit are empty prompts, as tools for long prompts do it."""
    if encoder is None:
        raise ShapeError("got words for a pipeline without a text encoder; pass prompt_embeds and negative_prompt_embeds")
    if length is None:
        return encoder.encode(encoder.tokenize(prompts), clip_skip)
    at_once = min(length, encoder.max_tokens or length)
    text = encoder.encode(encoder.tokenize(prompts, max(at_once, _SPECIAL_TOKENS)), clip_skip)
    parts, missing = [text.embeds[:, :at_once]], length - at_once
    if missing:
        empty = encoder.encode(encoder.tokenize([""] * len(prompts)), clip_skip).embeds
        parts += [empty[:, : missing - start] for start in range(0, missing, empty.shape[1])]
    return Text(torch.cat(parts, 1), text.added)
