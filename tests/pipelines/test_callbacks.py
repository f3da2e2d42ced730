"""Callbacks as diffusers' documentation has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.callbacks import MultiPipelineCallbacks, SDCFGCutoffCallback, SDXLCFGCutoffCallback
from torch import Tensor

from jointnet.errors import ShapeError
from jointnet.pipelines.joint_net import JointNetPipeline
from tests.bases import tiny_base
from tests.pipelines.test_habits import make

PROMPTS = ["a red ball", "a blue box on grass"]
HALVED = ("prompt_embeds", "add_text_embeds", "add_time_ids")
SDXL_INPUTS = list(HALVED)


def dynamic_guidance(pipe: Any, step: int, _t: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
    """diffusers' documentation, "Pipeline callbacks", Dynamic classifier-free guidance."""
    if step == int(pipe.num_timesteps * 0.4):
        for name in set(HALVED) & set(tensors):
            tensors[name] = tensors[name].chunk(2)[-1]
        pipe._guidance_scale = 0.0
    return tensors


def scale_only(pipe: Any, step: int, _t: Tensor, _tensors: dict[str, Any]) -> dict[str, Any]:
    if step == int(pipe.num_timesteps * 0.4):
        pipe._guidance_scale = 0.0
    return {}


@pytest.mark.parametrize("prompt", [PROMPTS[0], PROMPTS])
@pytest.mark.parametrize("cut", [dynamic_guidance, SDCFGCutoffCallback(cutoff_step_ratio=0.4)])
def test_guidance_ends_for_one_and_for_more_images(pipeline: JointNetPipeline, prompt: Any, cut: Callable) -> None:
    options = {"prompt": prompt, "num_inference_steps": 5, "num_images_per_prompt": 2}
    output = make(pipeline, callback_on_step_end=cut, callback_on_step_end_tensor_inputs=["prompt_embeds"], **options)
    assert torch.equal(output.depth, make(pipeline, callback_on_step_end=scale_only, **options).depth)
    assert not torch.equal(output.depth, make(pipeline, **options).depth)


@pytest.mark.parametrize("cut", [dynamic_guidance, SDXLCFGCutoffCallback(cutoff_step_ratio=0.4)])
def test_guidance_of_sdxl_ends_for_more_images(cut: Callable) -> None:
    pipeline = JointNetPipeline.from_base(tiny_base("sdxl"))
    pipeline.set_progress_bar_config(disable=True)
    options = {"prompt": PROMPTS, "num_inference_steps": 3}
    output = make(pipeline, callback_on_step_end=cut, callback_on_step_end_tensor_inputs=SDXL_INPUTS, **options)
    assert torch.equal(output.depth, make(pipeline, callback_on_step_end=scale_only, **options).depth)


def test_negative_and_positive_are_shown_together_while_there_is_guidance(pipeline: JointNetPipeline) -> None:
    seen: list[tuple[bool, int]] = []

    def look(pipe: Any, step: int, t: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((pipe.do_classifier_free_guidance, len(tensors["prompt_embeds"])))
        return dynamic_guidance(pipe, step, t, tensors)

    make(pipeline, prompt=PROMPTS, num_inference_steps=4, callback_on_step_end=look, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    assert seen == [(True, 4), (True, 4), (False, 2), (False, 2)]
    seen.clear()
    make(pipeline, prompt=PROMPTS, guidance_scale=1, callback_on_step_end=look, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    assert seen[0] == (False, 2)


def test_looking_changes_nothing(pipeline: JointNetPipeline) -> None:
    names = [name for name in pipeline._callback_tensor_inputs if "pooled" not in name]
    output = make(pipeline, callback_on_step_end=lambda _pipe, _step, _t, tensors: tensors, callback_on_step_end_tensor_inputs=names)
    assert torch.equal(output.depth, make(pipeline).depth)


@pytest.mark.parametrize("in_place", [False, True])
def test_either_half_may_be_changed(pipeline: JointNetPipeline, in_place: bool) -> None:
    positive, negative = pipeline.encode_prompt(PROMPTS[0], negative_prompt="grass")
    expected = make(pipeline, prompt=None, prompt_embeds=positive, negative_prompt_embeds=negative, num_inference_steps=1)

    def run(names: list[str], change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Tensor:
        """One step as asked, then one as changed, from which the text is read off."""
        seen: list[Tensor] = []

        def callback(_pipe: Any, step: int, _t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            seen.append(tensors[names[0]].clone())
            return change(tensors) if step == 0 else {}

        make(pipeline, num_inference_steps=2, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names)
        return seen[1]

    def to_grass(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if in_place:
            tensors["negative_prompt_embeds"].copy_(negative)
            return {}
        return {"negative_prompt_embeds": negative}

    def pair(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if in_place:
            tensors["prompt_embeds"].copy_(torch.cat([negative, positive]))
            return {}
        return {"prompt_embeds": torch.cat([negative, positive])}

    assert torch.equal(run(["prompt_embeds", "negative_prompt_embeds"], to_grass), torch.cat([negative, positive]))
    assert torch.equal(run(["prompt_embeds"], pair), torch.cat([negative, positive]))
    assert torch.equal(run(["negative_prompt_embeds"], to_grass), negative)
    assert expected.depth.isfinite().all()


def test_pooled_text_is_changed_under_either_name() -> None:
    pipeline = JointNetPipeline.from_base(tiny_base("sdxl"))
    pipeline.set_progress_bar_config(disable=True)
    names = ["add_text_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    for changed in names:
        seen: list[dict[str, Tensor]] = []

        def callback(
            _pipe: Any, step: int, _t: Tensor, tensors: dict[str, Tensor], changed: str = changed, seen: list[dict[str, Tensor]] = seen
        ) -> dict[str, Tensor]:
            if step == 0:
                tensors[changed].zero_()
            seen.append({name: value.clone() for name, value in tensors.items()})
            return tensors

        make(pipeline, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names)
        zero = {name: bool((value == 0).all()) for name, value in seen[1].items()}
        negative_is_zero = True  # SDXL's empty negative prompt
        assert zero == {
            "add_text_embeds": changed in ("add_text_embeds", "pooled_prompt_embeds") and negative_is_zero,
            "pooled_prompt_embeds": changed in ("add_text_embeds", "pooled_prompt_embeds"),
            "negative_pooled_prompt_embeds": negative_is_zero,
        }


def test_embeddings_of_another_number_of_rows_are_refused(pipeline: JointNetPipeline) -> None:
    def three(_pipe: Any, _step: int, _t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"prompt_embeds": tensors["prompt_embeds"][:3]}

    with pytest.raises(ShapeError, match="3 rows of prompt_embeds from a callback; expected 2, one for each picture, or 4"):
        make(pipeline, prompt=PROMPTS, callback_on_step_end=three, callback_on_step_end_tensor_inputs=["prompt_embeds"])


def test_several_callbacks_of_diffusers_run_together(pipeline: JointNetPipeline) -> None:
    both = MultiPipelineCallbacks([SDCFGCutoffCallback(cutoff_step_ratio=0.4), SDCFGCutoffCallback(cutoff_step_ratio=0.9)])
    output = make(pipeline, prompt=PROMPTS, num_inference_steps=5, callback_on_step_end=both)
    expected = make(pipeline, prompt=PROMPTS, num_inference_steps=5, callback_on_step_end=scale_only)
    assert torch.equal(output.depth, expected.depth)
