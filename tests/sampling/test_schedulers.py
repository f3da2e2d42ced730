from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from jointnet.diffusion.schedule import ScheduledProcess, flow_shift_mu
from jointnet.errors import RangeError
from jointnet.sampling.schedulers import needs_folding, seeded, seeded_generator, set_timesteps, shortened, step_scheduler
from jointnet.sampling.solvers import scheduler_like

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
            x = step_scheduler(scheduler, prediction, t, x, generator=noise_generator)
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
    both = step_scheduler(scheduler, x * 0.1, t, x, generator=[torch.Generator().manual_seed(i) for i in range(2)])
    for i in range(2):
        alone = step_scheduler(scheduler, x[i : i + 1] * 0.1, t, x[i : i + 1], generator=[torch.Generator().manual_seed(i)])
        assert torch.equal(alone[0], both[i])


@pytest.mark.filterwarnings("ignore:Should have ta>=t0")  # torchsde, of a time that it has rounded itself
def test_a_scheduler_with_a_tree_of_noise_takes_a_seed_for_each_generator() -> None:
    scheduler, x0 = make("DPMSolverSDEScheduler"), torch.randn(2, 2, 4, 6, 5)

    def run_with(x: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        scheduler.noise_sampler = None
        timesteps = set_timesteps(scheduler, 3, "cpu")
        with seeded(scheduler, generators, x.shape[1]):
            for t in timesteps:
                x = step_scheduler(scheduler, torch.tanh(x), t, x, generator=generators)
        return x

    both = run_with(x0, (5, 6))
    for i, seed in enumerate((5, 6)):
        assert torch.allclose(run_with(x0[i : i + 1], (seed,))[0], both[i], atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_noise_is_added_at_each_modalitys_own_timestep(batch: int) -> None:
    scheduler = make("DDIMScheduler")
    x0, noise = torch.randn(2, batch, 2, 4, 3, 3)
    t = torch.tensor([[10, 900], [500, 0]])[:batch]
    a = scheduler.alphas_cumprod[t][:, :, None, None, None]
    assert torch.allclose(ScheduledProcess(scheduler).add_noise(x0, noise, t), a.sqrt() * x0 + (1 - a).sqrt() * noise, atol=1e-6)


def test_custom_timesteps_need_a_scheduler_that_takes_them() -> None:
    assert set_timesteps(make("DDPMScheduler"), 50, "cpu", timesteps=[900, 400, 10]).tolist() == [900, 400, 10]
    with pytest.raises(RangeError, match="PNDMScheduler"):
        set_timesteps(make("PNDMScheduler"), 50, "cpu", timesteps=[900, 400, 10])


MIDDLE = ["DDIM", "DDPM", "EulerDiscrete", "HeunDiscrete", "DPMSolverMultistep", "UniPCMultistep", "PNDM", "LMSDiscrete"]
MIDDLE += ["KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE"]


def takes_timesteps(name: str) -> bool:
    return "timesteps" in inspect.signature(getattr(diffusers, f"{name}Scheduler").set_timesteps).parameters


@pytest.mark.parametrize(("name", "custom"), [*((n, False) for n in MIDDLE), *((n, True) for n in MIDDLE if takes_timesteps(n))])
@pytest.mark.filterwarnings("ignore:Should have ta>=t0")  # torchsde, of a time that it has rounded itself
def test_a_run_that_begins_in_the_middle_ends_where_the_truth_is(name: str, custom: bool) -> None:
    """With a denoiser that knows x0, a state noised to the first of the last steps comes back to x0."""
    config: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    config |= {"clip_sample": False} if name in ("DDIM", "DDPM") else {"skip_prk_steps": True} if name == "PNDM" else {}
    scheduler = getattr(diffusers, f"{name}Scheduler")(**config)
    timesteps = set_timesteps(scheduler, 20, "cpu", timesteps=list(range(951, 0, -50)) if custom else None)
    g = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(1, 2, 4, 8, 8, generator=g), torch.randn(1, 2, 4, 8, 8, generator=g)
    part = shortened(scheduler, timesteps, 0.4)
    x = ScheduledProcess(scheduler).add_noise(x0, noise, part[:1].expand(1, 2))
    sigmas = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt().numpy()
    grows = getattr(scheduler, "order", 1) == 2 or name in ("EulerDiscrete", "LMSDiscrete")  # x0 + sigma eps, the others shrink x0 as well
    for t in part:
        scheduler.scale_model_input(x, t)
        sigma = float(np.interp(float(t), np.arange(1000), sigmas))
        eps = (x - x0) / sigma if grows else (x * (1 + sigma**2) ** 0.5 - x0) / sigma
        x = step_scheduler(scheduler, eps, t, x, generator=g)
    assert float((x - x0).square().mean().sqrt()) < 0.06
    assert len(part) == {"PNDM": 9}.get(name, 15 if scheduler.order == 2 else 8)


def test_levels_of_noise_are_right_in_half_precision() -> None:
    scheduler, x0 = make("DDIMScheduler", beta_start=0.00085, beta_end=0.012), torch.zeros(1, 1, 4, 8, 8)
    noise, t = torch.randn(1, 1, 4, 8, 8), torch.ones(1, 1, dtype=torch.long)
    exact = ScheduledProcess(scheduler).add_noise(x0, noise, t)
    assert exact.std() > 0.03
    for dtype in (torch.bfloat16, torch.float16):
        assert torch.allclose(ScheduledProcess(scheduler).add_noise(x0.to(dtype), noise.to(dtype), t).float(), exact, rtol=0.02, atol=1e-3)


def test_pndm_with_runge_kutta_steps_cannot_begin_in_the_middle() -> None:
    scheduler = diffusers.PNDMScheduler()
    with pytest.raises(RangeError, match="skip_prk_steps"):
        shortened(scheduler, set_timesteps(scheduler, 10, "cpu"), 0.5)


def test_schedulers_that_cannot_do_it_are_named() -> None:
    with pytest.raises(RangeError, match="LCMScheduler refused 2000 steps"):
        set_timesteps(diffusers.LCMScheduler(), 2000, "cpu")
    with pytest.raises(RangeError, match="got 1000 steps; DDIMScheduler reaches 999 timesteps"):
        set_timesteps(diffusers.DDIMScheduler(steps_offset=1), 1000, "cpu")
    assert len(set_timesteps(diffusers.DDIMScheduler(), 1000, "cpu")) == 1000


def test_a_flow_scheduler_with_dynamic_shifting_is_shifted_by_its_canvas() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    small, large = (set_timesteps(scheduler, 4, "cpu", canvas=canvas).clone() for canvas in ((32, 32), (128, 128)))
    reference = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    reference.set_timesteps(4, mu=flow_shift_mu(reference.config, 128, 128))
    assert torch.equal(large, reference.timesteps)
    assert (large[1:] > small[1:]).all()


def test_every_bit_of_a_seed_counts_and_small_ones_stay_torchs_own() -> None:
    draws = [torch.randn(4, generator=seeded_generator(seed)) for seed in (5, 5 + 2**32, 5 + 2**40, 2**63 - 1)]
    assert len({tuple(draw.tolist()) for draw in draws}) == 4
    assert torch.equal(draws[0], torch.randn(4, generator=torch.Generator().manual_seed(5)))


def test_a_name_may_be_a_class_with_a_setting() -> None:
    own = diffusers.DDIMScheduler(prediction_type="v_prediction")
    plain, stochastic = (scheduler_like(own, name) for name in ("dpm++", "dpm++-sde"))
    assert type(plain) is type(stochastic)
    assert (plain.config.algorithm_type, stochastic.config.algorithm_type) == ("dpmsolver++", "sde-dpmsolver++")
    assert stochastic.config.prediction_type == "v_prediction"
