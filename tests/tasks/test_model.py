from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from torch import Tensor

from jointnet import Generate, JointNetPipeline, Predict, SamplingOptions
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
