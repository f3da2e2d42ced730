from __future__ import annotations

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.callbacks import SDCFGCutoffCallback

from jointnet.errors import PromptTruncatedWarning, RangeError, ShapeError
from jointnet.pipelines.joint_net import JointNetPipeline
from tests.conftest import tiny_pipeline

PROMPTS = ["a red ball", "a small blue box on grass"]


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def make(pipeline: JointNetPipeline, prompt=PROMPTS[0], seed: int = 0, **changes):
    arguments = {"num_inference_steps": 3, "generator": torch.Generator().manual_seed(seed), "output_type": "np", **changes}
    return pipeline(prompt, **arguments)


def test_a_seed_reproduces_and_another_differs(pipeline: JointNetPipeline) -> None:
    first, again, other = make(pipeline), make(pipeline), make(pipeline, seed=1)
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.depth, again.depth)
    assert not np.array_equal(first.depth, other.depth)


def test_global_random_state_is_neither_read_nor_changed(pipeline: JointNetPipeline) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = make(pipeline)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert np.array_equal(first.depth, make(pipeline).depth)


def test_a_batch_equals_its_single_images(pipeline: JointNetPipeline) -> None:
    both = make(pipeline, PROMPTS, generator=generators(3, 4))
    for i in range(2):
        alone = make(pipeline, PROMPTS[i], generator=generators(3 + i))
        assert np.allclose(both.images[i], alone.images[0], atol=1e-4)
        assert np.allclose(both.depth[i], alone.depth[0], atol=1e-4)


def test_untrained_it_makes_the_bases_images() -> None:
    pipeline = tiny_pipeline()
    with torch.no_grad():
        for parameter in pipeline.joint_unet.exchanges.parameters():
            parameter.zero_()
    latents = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    base = StableDiffusionPipeline(
        **{name: pipeline.components[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")},
        unet=pipeline.unet,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    base.set_progress_bar_config(disable=True)
    expected = base(PROMPTS[0], num_inference_steps=3, latents=latents[:, :4], output_type="np", height=32, width=32).images
    assert np.allclose(make(pipeline, latents=latents).images, expected, atol=1e-5)


def test_output_types_agree(pipeline: JointNetPipeline) -> None:
    arrays = make(pipeline)
    tensors = make(pipeline, output_type="pt")
    pictures = make(pipeline, output_type="pil")
    latents = make(pipeline, output_type="latent").images
    assert np.array_equal(tensors.images.permute(0, 2, 3, 1).numpy(), arrays.images)
    assert np.array_equal(tensors.depth[:, 0].numpy(), arrays.depth)
    assert np.abs(np.asarray(pictures.images[0]) / 255 - arrays.images[0]).max() <= 0.5 / 255 + 1e-6
    assert np.array_equal(pictures.depth, arrays.depth)
    assert torch.equal(pipeline.codec.decode("depth", latents.unflatten(1, (2, 4))[:, 1]), tensors.depth)


def test_tuple_and_dict_outputs_agree(pipeline: JointNetPipeline) -> None:
    images, dense = make(pipeline, return_dict=False)
    output = make(pipeline)
    assert np.array_equal(images, output.images)
    assert np.array_equal(dense["depth"], output.dense["depth"])


def test_given_latents_are_the_noise_a_generator_draws(pipeline: JointNetPipeline) -> None:
    latents = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(make(pipeline, latents=latents).depth, make(pipeline).depth)


def test_prompt_embeds_stand_for_prompts(pipeline: JointNetPipeline) -> None:
    positive, negative = pipeline.encode_prompt(PROMPTS[0], negative_prompt="a box")
    embedded = make(pipeline, None, prompt_embeds=positive, negative_prompt_embeds=negative)
    assert np.array_equal(embedded.depth, make(pipeline, negative_prompt="a box").depth)


def test_several_images_of_a_prompt_follow_each_other(pipeline: JointNetPipeline) -> None:
    four = make(pipeline, PROMPTS, num_images_per_prompt=2, generator=generators(0, 1, 2, 3))
    third = make(pipeline, PROMPTS[1], generator=generators(2))
    assert four.images.shape[0] == 4
    assert np.allclose(four.depth[2], third.depth[0], atol=1e-4)


def test_guidance_one_needs_no_negative_prompt(pipeline: JointNetPipeline) -> None:
    assert np.array_equal(make(pipeline, guidance_scale=1).depth, make(pipeline, guidance_scale=1, negative_prompt="a box").depth)
    assert not np.array_equal(make(pipeline).depth, make(pipeline, negative_prompt="a box").depth)
    assert pipeline.guidance_scale == 7.5
    assert pipeline.num_timesteps == 3


def test_a_callback_changes_latents_and_prompt_embeddings(pipeline: JointNetPipeline) -> None:
    seen = []

    def zero(pipe, step, t, tensors):
        seen.append((step, int(t), sorted(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 2 else {}

    latents = make(pipeline, callback_on_step_end=zero, output_type="latent").images
    assert latents.abs().max() == 0
    assert [s for s, *_ in seen] == [0, 1, 2]

    def swap(pipe, step, t, tensors):
        return {"prompt_embeds": tensors["negative_prompt_embeds"]}

    swapped = make(pipeline, callback_on_step_end=swap, callback_on_step_end_tensor_inputs=["prompt_embeds", "negative_prompt_embeds"])
    assert not np.array_equal(swapped.depth, make(pipeline).depth)


def test_diffusers_own_callback_ends_guidance(pipeline: JointNetPipeline) -> None:
    guided = make(pipeline).depth
    cut = make(pipeline, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)).depth
    assert not np.array_equal(cut, guided)
    never = make(pipeline, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=99)).depth
    assert np.array_equal(never, guided)


def test_a_callback_changes_the_guidance_scale(pipeline: JointNetPipeline) -> None:
    scales = [7.5, 3.0]

    def change(pipe, step, t, tensors):
        pipe._guidance_scale = scales[1]
        return {}

    mixed = make(pipeline, callback_on_step_end=change).depth
    assert not any(np.array_equal(mixed, make(pipeline, guidance_scale=scale).depth) for scale in scales)


def test_a_callback_interrupts(pipeline: JointNetPipeline) -> None:
    steps = []

    def stop(pipe, step, t, tensors):
        steps.append(step)
        pipe._interrupt = True
        return {}

    make(pipeline, num_inference_steps=10, callback_on_step_end=stop)
    assert steps == [0]


def test_save_and_load_is_exact(pipeline: JointNetPipeline, tmp_path: Path) -> None:
    pipeline.register_to_config(depth_near_m=1.5)
    pipeline.save_pretrained(tmp_path)
    loaded = JointNetPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.config.depth_near_m == 1.5
    assert np.array_equal(make(loaded).depth, make(pipeline).depth)
    assert json.loads((tmp_path / "model_index.json").read_text())["joint_unet"] == ["jointnet.models.joint_unet", "JointUNet"]


def test_three_modalities_come_out() -> None:
    output = make(tiny_pipeline(("rgb", "depth", "normal")), output_type="pt")
    assert output.depth.shape == (1, 1, 32, 32)
    assert output.normal.shape == (1, 3, 32, 32)
    length = output.normal.norm(dim=1)
    assert ((length - 1).abs() < 1e-4).logical_or(length == 0).all()


@pytest.mark.parametrize(
    "name", ["DDPMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler"]
)
def test_other_schedulers_run(pipeline: JointNetPipeline, name: str) -> None:
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config)
    output = make(pipeline)
    assert np.isfinite(output.depth).all()
    assert np.array_equal(output.depth, make(pipeline).depth)


def test_a_long_prompt_is_cut_and_the_cut_is_named(pipeline: JointNetPipeline) -> None:
    with pytest.warns(PromptTruncatedWarning, match="cut: 'cone cone cone cone'"):
        make(pipeline, " ".join(["a"] * 30 + ["cone"] * 4))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"height": 33}, ShapeError, "33x32; expected multiples of 2"),
        ({"num_inference_steps": 0}, RangeError, "0 steps"),
        ({"output_type": "png"}, RangeError, "pil, np, pt, latent"),
        ({"latents": torch.zeros(1, 4, 16, 16)}, ShapeError, "expected \\(B, M \\* C, h, w\\)"),
        ({"generator": [torch.Generator(), torch.Generator()]}, ShapeError, "2 generators for 1 images"),
        ({"prompt_embeds": torch.zeros(1, 32, 128)}, ShapeError, "pass one of them"),
        ({"negative_prompt": ["a", "b"]}, ShapeError, "2 negative prompts for 1"),
        ({"callback_on_step_end_tensor_inputs": ["x"]}, RangeError, "callback"),
    ],
)
def test_bad_arguments_are_named(pipeline: JointNetPipeline, changes: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(pipeline, **changes)


def test_no_component_is_changed_by_a_call(pipeline: JointNetPipeline) -> None:
    before = {k: v.clone() for k, v in pipeline.joint_unet.state_dict().items()}
    config = dict(pipeline.scheduler.config)
    make(pipeline)
    assert all(torch.equal(v, before[k]) for k, v in pipeline.joint_unet.state_dict().items())
    assert dict(pipeline.scheduler.config) == config
