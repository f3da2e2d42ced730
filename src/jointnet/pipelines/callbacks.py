"""diffusers' ``callback_on_step_end`` on the joint state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor

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
    """

    def __init__(self, pipeline: CallbackHost, factor: int, guide: Guide, options: SamplingOptions) -> None:
        """``factor``: the pixels that one of the state's stands for."""
        self.pipeline, self.factor, self.guide = pipeline, factor, guide
        self.callback: Any = options.callback_on_step_end
        self.inputs: Sequence[str] = getattr(self.callback, "tensor_inputs", options.callback_on_step_end_tensor_inputs)

    def __call__(self, call: int, t: Tensor, x: Tensor, conditioning: Conditioning) -> tuple[Tensor, Conditioning]:
        text, negative = conditioning.text, conditioning.negative
        tensors: dict[str, Any] = {"latents": x.flatten(1, 2), **_shown("", text), **_shown("negative_", negative), **self._added(x, text)}
        self.pipeline.follow(self.guide)
        changes = self.callback(self.pipeline, call, t, {name: tensors[name] for name in self.inputs}) or {}
        self.pipeline.follow(self.guide)
        tensors.update({"pooled_prompt_embeds": changes["add_text_embeds"], **changes} if "add_text_embeds" in changes else changes)
        changed = replace(
            conditioning, text=_changed("", text, tensors), negative=None if negative is None else _changed("negative_", negative, tensors)
        )
        return tensors["latents"].unflatten(1, x.shape[1:3]), changed

    def _added(self, x: Tensor, text: Text) -> dict[str, Tensor | None]:
        """SDXL's further inputs, by the names that diffusers' callbacks for it use; its sizes are shown, not taken back."""
        if not self.pipeline.joint_unet.reads_sizes:
            return {"add_text_embeds": None, "add_time_ids": None}
        height, width = (side * self.factor for side in x.shape[-2:])
        return {"add_text_embeds": text.added["text_embeds"], "add_time_ids": size_ids((height, width)).to(x).expand(len(x), -1)}


def _shown(prefix: str, text: Text | None) -> dict[str, Tensor | None]:
    """A text as a callback gets it, by diffusers' names."""
    embeds, pooled = (None, None) if text is None else (text.embeds, text.added.get("text_embeds"))
    return {f"{prefix}prompt_embeds": embeds, f"{prefix}pooled_prompt_embeds": pooled}


def _changed(prefix: str, text: Text, tensors: dict[str, Any]) -> Text:
    """The text as a callback left it."""
    pooled: Tensor = tensors[f"{prefix}pooled_prompt_embeds"]
    return Text(tensors[f"{prefix}prompt_embeds"], dict.fromkeys(text.added, pooled))
