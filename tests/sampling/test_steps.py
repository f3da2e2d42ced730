from __future__ import annotations

import inspect
from typing import Any

import diffusers
import pytest
import torch

from jointnet.errors import RangeError
from jointnet.sampling.steps import add_noise, needs_folding, set_timesteps, step

NAMES = [
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
]


def make(name: str, **config: Any) -> Any:
    kind = getattr(diffusers, name)
    accepted = inspect.signature(kind).parameters
    return kind(**{k: v for k, v in {"beta_schedule": "scaled_linear", **config}.items() if k in accepted})


def run(scheduler: Any, flatten: bool, learned: bool = False) -> torch.Tensor:
    """Ten steps with a toy prediction; the reference flattens the state before the scheduler sees it, as diffusers means it."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(2, 3, 4, 6, 5, generator=g)
    noise_generator = torch.Generator().manual_seed(9)
    for t in set_timesteps(scheduler, 10, "cpu"):
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        prediction = torch.tanh(scaled) * 0.5 + 0.01 * t / 1000
        if learned:
            prediction = torch.cat([prediction, torch.sigmoid(x)], 2)
        if flatten:
            takes = inspect.signature(scheduler.step).parameters
            extra = {k: v for k, v in {"generator": noise_generator, "eta": 0.0}.items() if k in takes}
            flat = scheduler.step(prediction.flatten(0, 1), t, x.flatten(0, 1), return_dict=False, **extra)[0]
            x = flat.unflatten(0, (2, 3))
        else:
            x = step(scheduler, prediction, t, x, generator=noise_generator)
    return x


@pytest.mark.parametrize("name", NAMES)
def test_every_scheduler_steps_the_state_as_single_maps(name: str) -> None:
    assert torch.allclose(run(make(name), flatten=False), run(make(name), flatten=True), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_learned_variance_is_split_for_each_map(variance: str) -> None:
    states = [run(make("DDPMScheduler", variance_type=variance), flatten, learned=True) for flatten in (False, True)]
    assert torch.equal(*states)


def test_dynamic_thresholding_takes_a_quantile_a_map() -> None:
    states = [run(make("DDIMScheduler", thresholding=True, sample_max_value=3.0), flatten) for flatten in (False, True)]
    assert torch.equal(*states)
    assert needs_folding(make("DDIMScheduler", thresholding=True))


def test_a_list_of_generators_equals_single_runs() -> None:
    scheduler = make("DDPMScheduler")
    t = set_timesteps(scheduler, 10, "cpu")[3]
    x = torch.randn(2, 2, 4, 6, 5)
    both = step(scheduler, x * 0.1, t, x, generator=[torch.Generator().manual_seed(i) for i in range(2)])
    for i in range(2):
        alone = step(scheduler, x[i : i + 1] * 0.1, t, x[i : i + 1], generator=[torch.Generator().manual_seed(i)])
        assert torch.equal(alone[0], both[i])


@pytest.mark.parametrize("batch", [1, 2])
def test_noise_is_added_at_each_modalitys_own_timestep(batch: int) -> None:
    scheduler = make("DDIMScheduler")
    x0, noise = torch.randn(2, batch, 2, 4, 3, 3)
    t = torch.tensor([[10, 900], [500, 0]])[:batch]
    a = scheduler.alphas_cumprod[t][:, :, None, None, None]
    assert torch.allclose(add_noise(scheduler, x0, noise, t), a.sqrt() * x0 + (1 - a).sqrt() * noise, atol=1e-6)


def test_custom_timesteps_need_a_scheduler_that_takes_them() -> None:
    assert set_timesteps(make("DDPMScheduler"), 50, "cpu", timesteps=[900, 400, 10]).tolist() == [900, 400, 10]
    with pytest.raises(RangeError, match="PNDMScheduler"):
        set_timesteps(make("PNDMScheduler"), 50, "cpu", timesteps=[900, 400, 10])
