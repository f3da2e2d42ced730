"""diffusers' ``callback_on_step_end`` on the joint state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from jointnet.errors import ShapeError
from jointnet.models.joint_unet import JointUNet
from jointnet.tasks.model import Guide
from jointnet.tasks.options import SamplingOptions
from jointnet.types import Conditioning, Text, size_ids

TENSOR_INPUTS = (
    "latents",
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
    "add_text_embeds",
    "add_time_ids",
)
"""Tensors that a callback may ask for."""


class CallbackHost(Protocol):
    """The first argument of a callback: the pipeline."""

    joint_unet: JointUNet

    def follow(self, guide: Guide) -> None:
        """Let the scale that the callback reads and sets be that of this run."""
        ...


class StepReport:
    """Runs the user's callback after each step.

    A callback may change the tensors that it gets, and the pipeline's ``_guidance_scale``, as diffusers' own callbacks do; the change
    is the run's own, whatever other runs the pipeline has at the same time, also one that the callback itself begins.

    Under guidance ``prompt_embeds``, ``add_text_embeds`` and ``add_time_ids`` hold the rows of the negative prompts and then those of the
    prompts, (2 B, ...), as in diffusers' pipelines. A callback may return both, or the prompts' rows only.
    """

    def __init__(self, pipeline: CallbackHost, factor: int, guide: Guide, options: SamplingOptions) -> None:
        """``factor``: the pixels that one of the state's stands for."""
        self.pipeline, self.factor, self.guide = pipeline, factor, guide
        self.callback: Any = options.callback_on_step_end
        self.inputs: Sequence[str] = getattr(self.callback, "tensor_inputs", options.callback_on_step_end_tensor_inputs)

    def __call__(self, call: int, t: Tensor, x: Tensor, conditioning: Conditioning) -> tuple[Tensor, Conditioning]:
        """Raises: ShapeError for embeddings of another number of rows."""
        shown = self._shown(x, conditioning)
        self.pipeline.follow(self.guide)
        changes = self.callback(self.pipeline, call, t, {name: shown[name] for name in self.inputs}) or {}
        self.pipeline.follow(self.guide)
        left = {"latents": shown["latents"], **{name: shown[name] for name in self.inputs}, **changes}
        return left["latents"].unflatten(1, x.shape[1:3]), _changed(conditioning, left) if set(left) != {"latents"} else conditioning

    def _shown(self, x: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """All that a callback may ask for; SDXL's sizes are shown, not taken back."""
        text, negative = conditioning.text, conditioning.negative
        avoided = negative if self.guide.scale > 1 else None
        shown: dict[str, Any] = {
            "latents": x.flatten(1, 2),
            "prompt_embeds": _pair(avoided, text).embeds,
            "negative_prompt_embeds": None if negative is None else negative.embeds.clone(),
            "pooled_prompt_embeds": text.added.get(_POOLED),
            "negative_pooled_prompt_embeds": None if negative is None else negative.added.get(_POOLED),
            "add_text_embeds": None,
            "add_time_ids": None,
        }
        if self.pipeline.joint_unet.reads_sizes:
            height, width = (side * self.factor for side in x.shape[-2:])
            shown["add_text_embeds"] = _pair(avoided, text).added[_POOLED]
            shown["add_time_ids"] = size_ids((height, width)).to(x).expand(len(shown["prompt_embeds"]), -1)
        return shown


_POOLED = "text_embeds"
"""A pooled text among a Text's added conditions."""


def _pair(negative: Text | None, text: Text) -> Text:
    return text if negative is None else negative.concat(text)


def _changed(conditioning: Conditioning, left: Mapping[str, Any]) -> Conditioning:
    """The conditioning with the texts as a callback left them; a negative prompt by its own name counts before one in a pair."""
    text, negative = conditioning.text, conditioning.negative
    avoided, followed = _parts("prompt_embeds", left.get("prompt_embeds"), text.embeds)
    avoided_pooled, followed_pooled = None, left.get("pooled_prompt_embeds")
    own_pooled = text.added.get(_POOLED)
    if own_pooled is not None:
        in_pair = _parts("add_text_embeds", left.get("add_text_embeds"), own_pooled)
        avoided_pooled = in_pair[0]
        if followed_pooled is None or not torch.equal(in_pair[1], own_pooled):
            followed_pooled = in_pair[1]
    changed = _with(text, followed, followed_pooled)
    if negative is None:
        return replace(conditioning, text=changed)
    named, named_pooled = left.get("negative_prompt_embeds"), left.get("negative_pooled_prompt_embeds")
    if named is not None and not torch.equal(named, negative.embeds):
        avoided = named
    if named_pooled is not None and not torch.equal(named_pooled, negative.added[_POOLED]):
        avoided_pooled = named_pooled
    return replace(conditioning, text=changed, negative=_with(negative, avoided, avoided_pooled))


def _with(text: Text, embeds: Tensor | None, pooled: Tensor | None) -> Text:
    """A text with other embeddings; None: its own."""
    return Text(text.embeds if embeds is None else embeds, text.added if pooled is None else {**text.added, _POOLED: pooled})


def _parts(name: str, value: Tensor | None, own: Tensor) -> tuple[Tensor | None, Tensor]:
    """What a callback left -> the negative prompts' rows (None: as they were) and the prompts'; ``own`` are the prompts' rows before.

    Raises: ShapeError.
    """
    rows, batch = 0 if value is None else len(value), len(own)
    if value is None:
        return None, own
    if rows == 2 * batch:
        negative, positive = value.chunk(2)
        return negative, positive
    if rows == batch:
        return None, value
    if 0 < rows < batch and torch.equal(value, own[-rows:]):
        return None, own  # diffusers' callbacks that end guidance keep the last row, of however many prompts
    raise ShapeError(f"got {rows} rows of {name} from a callback; expected {batch}, one for each picture, or {2 * batch} with the negative")
