"""One forward process for loss and sampler."""

from __future__ import annotations

from math import exp
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from jointnet.diffusion.schedule import (
    TARGETS,
    DiscreteProcess,
    FlowProcess,
    ForwardProcess,
    ScheduledProcess,
    flow_shift_mu,
    forward_process,
    independent_levels,
    shared_levels,
)
from jointnet.errors import ShapeError, UnsupportedBaseError

ALPHA_BAR = torch.linspace(0.999, 0.01, 1000)
PROCESSES: dict[str, Any] = {**{kind: DiscreteProcess(ALPHA_BAR, kind) for kind in TARGETS}, "flow": FlowProcess()}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def state() -> tuple[Tensor, Tensor]:
    """Clean latents and noise (B, M, C, H, W)."""
    return torch.randn(3, 2, 4, 5, 6, generator=seeded()), torch.randn(3, 2, 4, 5, 6, generator=torch.Generator().manual_seed(1))


def recovered(process: Any, x_t: Tensor, target: Tensor, t: Tensor) -> Tensor:
    """x_0 from x_t and what a perfect network predicts there."""
    if isinstance(process, FlowProcess):
        return x_t - t[..., None, None, None] / process.num_timesteps * target
    a = process.alpha_bar[t][..., None, None, None]
    return {
        "epsilon": (x_t - (1 - a).sqrt() * target) / a.sqrt(),
        "v_prediction": a.sqrt() * x_t - (1 - a).sqrt() * target,
        "sample": target,
    }[process.prediction_type]


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_the_clean_state_follows_from_the_noisy_one_and_the_target(process: ForwardProcess) -> None:
    x0, noise = state()
    t = process.draw_timesteps(6, seeded()).view(3, 2)
    x_t = process.add_noise(x0, noise, t)
    assert torch.allclose(recovered(process, x_t, process.target(x0, noise, t), t), x0, atol=1e-4)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_a_timestep_a_sample_means_all_of_its_modalities(process: ForwardProcess) -> None:
    x0, noise = state()
    t = process.draw_timesteps(3, seeded())
    for method in (process.add_noise, process.target):
        assert torch.equal(method(x0, noise, t), method(x0, noise, t[:, None].expand(3, 2)))


def test_the_levels_of_flow_matching_reach_from_clean_to_noise() -> None:
    process, (x0, noise) = FlowProcess(), state()
    assert torch.equal(process.add_noise(x0, noise, torch.zeros(3, 2)), x0)
    assert torch.equal(process.add_noise(x0, noise, torch.full((3, 2), 1000.0)), noise)


@pytest.mark.parametrize("prediction_type", TARGETS)
def test_the_sampler_noises_to_ddim_levels_as_the_loss_does(prediction_type: str) -> None:
    scheduler = DDIMScheduler(prediction_type=prediction_type)
    scheduler.set_timesteps(10)
    x0, noise = state()
    t = scheduler.timesteps[torch.tensor([[0, 9], [3, 3], [5, 8]])]
    closed = forward_process(scheduler).add_noise(x0, noise, t)
    assert torch.allclose(ScheduledProcess(scheduler).add_noise(x0, noise, t), closed, atol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_sampler_noises_to_flow_levels_as_the_loss_does(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(10)
    x0, noise = state()
    t = scheduler.timesteps[torch.tensor([[0, 9], [3, 3], [5, 8]])]
    closed = forward_process(scheduler).add_noise(x0, noise, t)
    assert torch.allclose(ScheduledProcess(scheduler).add_noise(x0, noise, t), closed, atol=1e-6)


def test_a_scheduler_of_the_larger_state_equals_the_closed_form_once_it_is_scaled() -> None:
    scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear")
    scheduler.set_timesteps(10)
    x0, noise = state()
    for t in scheduler.timesteps:
        x = ScheduledProcess(scheduler).add_noise(x0, noise, t.expand(3, 2))
        scheduler._step_index = None
        closed = forward_process(scheduler).add_noise(x0, noise, t.long().expand(3, 2))
        assert torch.allclose(scheduler.scale_model_input(x, t), closed, atol=2e-2)  # timesteps between whole ones
        assert torch.allclose(scheduler.scale_model_input(x, t), closed, atol=1e-5) or t != t.long()


def test_the_sampler_noises_in_float32_and_keeps_the_type() -> None:
    scheduler = DDIMScheduler(beta_start=1e-5, beta_end=1e-4)
    scheduler.set_timesteps(1000)
    x0, noise = state()
    half = ScheduledProcess(scheduler).add_noise(torch.zeros_like(x0).bfloat16(), noise.bfloat16(), torch.zeros(3, 2, dtype=torch.long))
    assert half.dtype is torch.bfloat16
    assert half.abs().max() > 0


def test_processes_are_read_from_schedulers() -> None:
    discrete = forward_process(DDPMScheduler(prediction_type="v_prediction"))
    assert isinstance(discrete, DiscreteProcess)
    assert (discrete.prediction_type, len(discrete.alpha_bar)) == ("v_prediction", 1000)
    assert forward_process(FlowMatchEulerDiscreteScheduler(shift=3.0)) == FlowProcess(1000, 3.0)
    assert forward_process(FlowMatchHeunDiscreteScheduler(shift=2.0)) == FlowProcess(1000, 2.0)
    solver = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    assert forward_process(solver) == FlowProcess(1000, 5.0)


@pytest.mark.parametrize(
    "scheduler",
    [EDMEulerScheduler(), DDPMScheduler(prediction_type="other"), FlowMatchEulerDiscreteScheduler(invert_sigmas=True)],
    ids=["EDM", "prediction", "inverted"],
)
def test_another_process_is_refused_by_name(scheduler: Any) -> None:
    with pytest.raises(UnsupportedBaseError, match=type(scheduler).__name__):
        forward_process(scheduler)


@pytest.mark.parametrize(("kind", "shift_of"), [("exponential", exp), ("linear", float)])
def test_a_shift_that_depends_on_the_size_is_that_of_the_scheduler(kind: Any, shift_of: Any) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    mu = flow_shift_mu(scheduler.config, 128, 96)
    assert mu == pytest.approx(calculate_shift(64 * 48))
    process = forward_process(scheduler, (128, 96))
    assert process == FlowProcess(1000, shift_of(mu))
    scheduler.set_timesteps(sigmas=[0.9, 0.5, 0.1], mu=mu)
    sigma = torch.tensor([0.9, 0.5, 0.1])
    assert torch.allclose(scheduler.timesteps, 1000 * process.shift * sigma / (1 + (process.shift - 1) * sigma))
    with pytest.raises(ShapeError, match="dynamic shifting"):
        forward_process(scheduler)


def test_a_shift_draws_more_of_the_noisy_levels() -> None:
    plain, shifted = (FlowProcess(shift=shift).draw_timesteps(4000, seeded()) for shift in (1.0, 3.0))
    for t in (plain, shifted):
        assert 0 < float(t.min()) < 10
        assert 990 < float(t.max()) <= 1000
    assert float(plain.median()) == pytest.approx(500, abs=30)
    assert float(shifted.median()) == pytest.approx(750, abs=30)


@pytest.mark.parametrize("process", [DiscreteProcess(ALPHA_BAR), FlowProcess()], ids=["discrete", "flow"])
def test_independent_levels_are_a_quarter_shared_and_half_partly_clean(process: ForwardProcess) -> None:
    for modalities in (2, 3):
        levels = independent_levels(process, 8000, modalities, seeded())
        assert (levels.t[levels.is_clean] == 0).all()
        assert not levels.is_clean.all(1).any()
        assert abs(float(levels.is_clean.any(1).float().mean()) - 0.5) < 0.03
        assert abs(float((levels.t == levels.t[:, :1]).all(1).float().mean()) - 0.25) < 0.03


def test_shared_levels_are_one_a_sample_and_never_clean() -> None:
    levels = shared_levels(FlowProcess(), 100, 3, seeded())
    assert (levels.t == levels.t[:, :1]).all()
    assert len(levels.t[:, 0].unique()) == 100
    assert not levels.is_clean.any()


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def states() -> tuple[Tensor, Tensor, Tensor]:
    """Two states, and timesteps that differ."""
    g = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(4, 2, 4, 8, 8, generator=g), torch.randn(4, 2, 4, 8, 8, generator=g)
    return x0, noise, torch.tensor([[19, 39], [499, 519], [899, 879], [979, 999]])


@pytest.mark.parametrize("kind", TARGETS)
def test_a_true_prediction_gives_the_clean_state_and_the_next_noisy_one(kind: str) -> None:
    process, (x0, noise, start) = DiscreteProcess(DDIMScheduler(**BETAS).alphas_cumprod, kind), states()
    end = (start - 20).clamp(min=0)
    x = process.add_noise(x0, noise, start)
    found = process.clean(process.target(x0, noise, start), x, start)
    assert torch.allclose(found, x0, atol=1e-4)
    assert torch.allclose(process.move(found, x, start, end), process.add_noise(x0, noise, end), atol=1e-4)


@pytest.mark.parametrize("kind", TARGETS)
def test_a_move_is_a_step_of_ddim(kind: str) -> None:
    ddim = DDIMScheduler(**BETAS, prediction_type=kind, clip_sample=False, steps_offset=19, set_alpha_to_one=False)
    ddim.set_timesteps(50)
    process, (x, predicted, _) = DiscreteProcess(ddim.alphas_cumprod, kind), states()
    for start in (999, 519, 39):
        t, t_end = torch.full((4, 2), start), torch.full((4, 2), start - 20)
        ours = process.move(process.clean(predicted, x, t), x, t, t_end)
        theirs = ddim.step(predicted, start, x).prev_sample
        assert torch.allclose(ours, theirs, atol=1e-4)
