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
            "negative_prompt_embeds": _copied(negative, None),
            "pooled_prompt_embeds": _copied(text, _POOLED),
            "negative_pooled_prompt_embeds": _copied(negative, _POOLED),
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


def _copied(text: Text | None, added: str | None) -> Tensor | None:
    """A copy, since a callback may change it in place: of a text's embeddings, or of what is added to them."""
    value = None if text is None else text.embeds if added is None else text.added.get(added)
    return None if value is None else value.clone()


def _pair(negative: Text | None, text: Text) -> Text:
    return text if negative is None else negative.concat(text)


def _changed(conditioning: Conditioning, left: Mapping[str, Any]) -> Conditioning:
    """The conditioning with the texts as a callback left them."""
    text, negative = conditioning.text, conditioning.negative
    avoided, followed = _read("prompt_embeds", "prompt_embeds", left, text.embeds, None if negative is None else negative.embeds)
    added, negative_added = text.added, {} if negative is None else negative.added
    if _POOLED in added:
        pooled = _read("add_text_embeds", "pooled_prompt_embeds", left, added[_POOLED], negative_added.get(_POOLED))
        negative_added, added = {**negative_added, _POOLED: pooled[0]}, {**added, _POOLED: pooled[1]}
    return replace(conditioning, text=Text(followed, added), negative=None if negative is None else Text(avoided, negative_added))


def _read(pair: str, name: str, left: Mapping[str, Any], own: Tensor, own_negative: Tensor | None) -> tuple[Any, Tensor]:
    """The negative prompts' rows and the prompts' as a callback left them: under the name of both, or each under its own, which counts.

    ``own``, ``own_negative``: as they were. Raises: ShapeError.
    """
    in_pair = (own_negative, own) if left.get(pair) is None else _parts(pair, left[pair], own, own_negative)
    named = (left.get(f"negative_{name}"), left.get(name) if name != pair else None)
    before = (own_negative, own)
    negative, positive = (
        theirs if theirs is not None and was is not None and not torch.equal(theirs, was) else both
        for theirs, was, both in zip(named, before, in_pair, strict=True)
    )
    assert positive is not None, "a prompt has a text"
    return negative, positive


def _parts(name: str, value: Tensor, own: Tensor, own_negative: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """Rows of the negative prompts and the prompts, or of the prompts only -> both. Raises: ShapeError."""
    rows, batch = len(value), len(own)
    if rows == 2 * batch:
        negative, positive = value.chunk(2)
        return negative, positive
    if rows == batch:
        return own_negative, value
    if 0 < rows < batch and torch.equal(value, own[-rows:]):
        return own_negative, own  # diffusers' callbacks that end guidance keep the last row, of however many prompts
    raise ShapeError(f"got {rows} rows of {name} from a callback; expected {batch}, one for each picture, or {2 * batch} with the negative")
