from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from torch import Tensor

from jointnet import (
    Generate,
    JointNetPipeline,
    JointNetPipelineOutput,
    NonFiniteError,
    Predict,
    RangeError,
    SamplingOptions,
    ShapeError,
)
from tests.conftest import tiny_pipeline


def generated(pipeline: JointNetPipeline, steps: int, scale: float) -> Tensor:
    options = {"num_inference_steps": steps, "guidance_scale": scale, "output_type": "pt"}
    return pipeline("a red ball", generator=torch.Generator().manual_seed(steps), **options).depth


@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler])
def test_two_runs_at_once_give_what_each_gives_alone(kind: type) -> None:
    """Other steps, seeds and guidance on one pipeline, in two threads that wait for each other in the middle of their runs."""
    pipeline = tiny_pipeline()
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    runs = [(8, 3.0), (5, 7.0)]
    alone = [generated(pipeline, *run) for run in runs]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda run: generated(pipeline, *run), runs))
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a, b)


def test_a_run_inside_a_callback_of_another_does_not_touch_it() -> None:
    pipeline = tiny_pipeline()
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    alone = generated(pipeline, 8, 3.0)

    def run_another(pipe: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == 2:
            generated(pipeline, 5, 1.0)
        return {}

    options = {"num_inference_steps": 8, "guidance_scale": 3.0, "output_type": "pt", "callback_on_step_end": run_another}
    nested = pipeline("a red ball", generator=torch.Generator().manual_seed(8), **options).depth
    assert torch.equal(alone, nested)


def test_the_scheduler_of_a_pipeline_stays_as_it_was() -> None:
    pipeline = tiny_pipeline()
    before = dict(vars(pipeline.scheduler))
    generated(pipeline, 3, 3.0)
    assert all(vars(pipeline.scheduler)[name] is value for name, value in before.items())


def test_a_request_is_a_frozen_value_that_gives_what_the_method_gives() -> None:
    pipeline = tiny_pipeline()
    picture = torch.rand(1, 3, 40, 57, generator=torch.Generator().manual_seed(1))
    options = {"num_inference_steps": 2, "output_type": "pt"}
    request = Predict(image=picture, options=SamplingOptions(generator=torch.Generator().manual_seed(0), **options))
    result = pipeline.run(request)
    by_method = pipeline.predict(picture, generator=torch.Generator().manual_seed(0), **options)
    assert torch.equal(result.maps["depth"], by_method.depth)
    assert {"image.png", "depth.png", "depth.npy"} <= set(result.files())
    with pytest.raises(FrozenInstanceError):
        request.ensemble = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_a_request_runs_on_the_joint_model_without_the_pipelines_call() -> None:
    pipeline = tiny_pipeline()
    options = SamplingOptions(num_inference_steps=2, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        result = Generate(prompt="a red ball", options=options).run(pipeline.joint_model())
    again = pipeline("a red ball", num_inference_steps=2, generator=torch.Generator().manual_seed(3), output_type="pt")
    assert torch.equal(result.maps["rgb"], again.images)


def test_words_beside_embeddings_are_refused_in_tasks_too() -> None:
    pipeline = tiny_pipeline()
    embeds, _ = pipeline.encode_prompt("grass")
    picture = torch.rand(1, 3, 32, 32)
    assert pipeline.predict(picture, None, prompt_embeds=embeds, num_inference_steps=1).depth.shape == (1, 32, 32)
    with pytest.raises(ValueError, match="pass one of them"):
        pipeline.predict(picture, "a box", prompt_embeds=embeds, num_inference_steps=1)


def test_two_predictions_at_once_give_what_each_gives_alone() -> None:
    pipeline = tiny_pipeline()

    def predicted(seed: int) -> Tensor:
        picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        options = {"num_inference_steps": 4, "output_type": "pt"}
        return pipeline.predict(picture, ensemble=2, generator=torch.Generator().manual_seed(seed), **options).depth

    alone = [predicted(seed) for seed in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(predicted, (1, 2)))
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("task", ["generate", "predict", "refine"])
def test_a_result_that_is_not_finite_is_refused(task: str) -> None:
    pipeline = tiny_pipeline()
    with torch.no_grad():
        pipeline.joint_unet.branch("depth").conv_out.bias.fill_(float("nan"))
    picture, maps = torch.rand(1, 3, 32, 32), {"depth": torch.rand(1, 1, 32, 32)}
    calls = {
        "generate": lambda: pipeline("a box", num_inference_steps=1),
        "predict": lambda: pipeline.predict(picture, num_inference_steps=1),
        "refine": lambda: pipeline.refine(picture, maps, num_inference_steps=3),
    }
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        calls[task]()


def test_maps_are_contiguous_so_that_they_can_be_saved() -> None:
    output = tiny_pipeline(("rgb", "depth", "normal"))("a box", num_inference_steps=1, output_type="pt")
    assert all(maps.is_contiguous() for maps in (output.images, output.depth, output.normal))


def test_refining_by_nothing_gives_a_copy_for_each_prompt() -> None:
    picture, depth = torch.rand(1, 3, 32, 32), torch.rand(1, 1, 32, 32)
    output = tiny_pipeline().refine(picture, {"depth": depth}, ["grass", "a box"], strength=0, output_type="pt")
    assert torch.equal(output.images, picture.expand(2, -1, -1, -1))
    assert torch.equal(output.depth, depth.expand(2, -1, -1, -1))


def test_a_panorama_keeps_tiles_of_ones_own_in_its_second_pass() -> None:
    pipeline = tiny_pipeline()
    sizes: list[int] = []
    pipeline.joint_unet.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[-1]))
    own = pipeline.tiling(window=8, whole_share=0.0)
    pipeline.panorama("grass", height=32, width=64, scale=2, tiled=own, num_inference_steps=3)
    assert set(sizes) == {8}


def test_generators_and_counts_of_no_use_are_named() -> None:
    pipeline = tiny_pipeline()
    with pytest.raises(RangeError, match="got generator 5; expected torch"):
        pipeline("grass", generator=5)
    with pytest.raises(RangeError, match="got 0 images per prompt"):
        pipeline("grass", num_images_per_prompt=0)
    with pytest.raises(ShapeError, match="1 pictures and 0 prompts"):
        pipeline.predict(torch.rand(1, 3, 32, 32), [])


def test_the_third_of_a_tuple_is_always_the_uncertainty() -> None:
    images, dense, uncertainty, flags = object(), {"depth": 1}, {"depth": 2}, [False]
    assert JointNetPipelineOutput(images, dense).to_tuple() == (images, dense)
    assert JointNetPipelineOutput(images, dense, uncertainty).to_tuple() == (images, dense, uncertainty)
    assert JointNetPipelineOutput(images, dense, {}, flags).to_tuple() == (images, dense, {}, flags)
    assert JointNetPipelineOutput(images, dense, uncertainty, flags).to_tuple() == (images, dense, uncertainty, flags)
