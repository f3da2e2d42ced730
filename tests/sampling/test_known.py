from __future__ import annotations

from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from torch import Tensor

from jointnet.diffusion.schedule import ScheduledProcess
from jointnet.errors import RangeError
from jointnet.sampling.loop import Blend, CleanKnown, TimeTravel, fresh_noise, initial_noise, sample
from jointnet.sampling.schedulers import seeded, set_timesteps, shortened, stands_between_levels
from jointnet.types import Conditioning, Known, Step, Text

TEXT = Conditioning(Text(torch.zeros(2, 3, 4)))


def draw(seed: int, channels: int = 4) -> Tensor:
    return torch.randn(2, 2, channels, 8, 8, generator=torch.Generator().manual_seed(seed))


def half_known() -> Known:
    asked = torch.zeros(2, 2, 1, 8, 8, dtype=torch.bool)
    asked[:, 1] = True
    asked[:, 0, :, :, 4:] = True
    return Known(draw(1), asked)


def blend_with(known: Known, scheduler: Any, noise: Tensor) -> Blend:
    """Blending that always uses the same noise."""
    return Blend(known, scheduler, ScheduledProcess(scheduler), initial_noise(noise, None))


def shrink(x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
    return 0.9 * x


@pytest.mark.parametrize("make", [DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_known_latents_come_out_clean_and_stand_at_the_next_level_on_the_way(make: type) -> None:
    scheduler, known, noise = make(), half_known(), draw(2)
    scheduler.set_timesteps(6)
    seen: list[Tensor] = []

    def look(index: int, t: Tensor, x: Tensor, conditioning: Conditioning) -> tuple[Tensor, Conditioning]:
        seen.append(x.clone())
        return x, conditioning

    blend = blend_with(known, scheduler, noise)
    g = torch.Generator().manual_seed(0)
    start = draw(3) * scheduler.init_noise_sigma
    out = sample(shrink, start, TEXT, scheduler=scheduler, timesteps=scheduler.timesteps, generator=g, blend=blend, on_step=look)
    held = (~known.asked).expand_as(out)
    assert torch.equal(out[held], known.latents[held])
    for index in range(5):
        fresh = make()
        fresh.set_timesteps(6)
        t_next = fresh.timesteps[index + 1]
        expected = fresh.add_noise(known.latents.flatten(0, 1), noise.flatten(0, 1), t_next.expand(4)).unflatten(0, (2, 2))
        assert torch.allclose(seen[index][held], expected[held], atol=1e-5)
        assert not torch.isclose(seen[index][~held], expected[~held]).any()


@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("kind", [s.name for s in KarrasDiffusionSchedulers if "EDM" not in s.name])  # EDM has no such levels
@pytest.mark.filterwarnings("ignore:Should have ta>=t0")  # torchsde, of a time that it has rounded itself
def test_the_network_sees_known_latents_at_the_level_of_its_timestep(kind: str, strength: float) -> None:
    """sqrt(a) x0 + sqrt(1 - a) eps at every call but those in the middle of a step: as each scheduler scales it for the network."""
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    more = {"skip_prk_steps": True} if kind == "PNDMScheduler" else {}
    scheduler = getattr(diffusers, kind)(**schedule, **more)
    steps = set_timesteps(scheduler, 10, "cpu")
    if strength < 1:
        steps = shortened(scheduler, steps, strength)
    known, noise = half_known(), draw(2)
    held = (~known.asked).expand(-1, -1, 4, -1, -1)
    level = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    log_snr = (level.log() - (1 - level).log()).numpy()
    checked = 0

    def look(x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        nonlocal checked
        if not stands_between_levels(scheduler):
            a = torch.sigmoid(torch.tensor(np.interp(step.t[0, 0].numpy(), np.arange(1000), log_snr), dtype=torch.float32))
            expected = a.sqrt() * known.latents + (1 - a).sqrt() * noise
            assert (x - expected)[held].abs().max() < 0.06, f"at {float(step.t[0, 0])}"
            checked += 1
        return 0.1 * x

    x = ScheduledProcess(scheduler).add_noise(known.latents, noise, steps[:1].expand(2, 2))
    g = torch.Generator().manual_seed(0)
    with seeded(scheduler, g, 2):
        sample(look, x, TEXT, scheduler=scheduler, timesteps=steps, generator=g, blend=blend_with(known, scheduler, noise))
    assert checked >= (10 if strength == 1 else 4)


def test_noise_of_the_known_part_is_fresh_from_the_generator() -> None:
    scheduler, known = DDIMScheduler(), half_known()
    scheduler.set_timesteps(6)

    def blending() -> Blend:
        draw_noise = fresh_noise(known.latents, torch.Generator().manual_seed(0))
        return Blend(known, scheduler, ScheduledProcess(scheduler), draw_noise)

    blend = blending()
    x, t = torch.zeros_like(known.latents), scheduler.timesteps[0]
    first, second = blend(x, t), blend(x, t)
    again = blending()
    assert not torch.equal(first, second)
    assert torch.equal(first, again(x, t))


def test_a_clean_modality_is_shown_as_it_is_at_timestep_0() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def look(x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        seen.append((x, step.t))
        return x

    latents, x = draw(1), draw(2)
    asked = torch.zeros_like(x[:, :, :1], dtype=torch.bool)
    asked[0, 1], asked[1, 0, :, 2], asked[1, 1] = True, True, True  # row 0 knows the first map, row 1 a part of it
    CleanKnown(look)(x, Step(0, 1, torch.full((2, 2), 700)), replace(TEXT, known=Known(latents, asked)))
    CleanKnown(look)(x, Step(0, 1, torch.full((2, 2), 700)), TEXT)
    assert torch.equal(seen[0][0][0, 0], latents[0, 0])
    assert torch.equal(seen[0][0][0, 1], x[0, 1])
    assert torch.equal(seen[0][0][1], x[1])
    assert seen[0][1].tolist() == [[0, 700], [700, 700]]
    assert torch.equal(seen[1][0], x)


def test_going_back_has_the_forward_processs_mean_and_variance() -> None:
    scheduler = DDIMScheduler()
    x = torch.full((200, 1, 4, 16, 16), 2.0)
    back = TimeTravel(scheduler, 2, torch.Generator().manual_seed(0)).back(x, torch.tensor(300), torch.tensor(500))
    ratio = scheduler.alphas_cumprod[500] / scheduler.alphas_cumprod[300]
    assert abs(float(back.mean()) - 2 * float(ratio.sqrt())) < 0.01
    assert abs(float(back.var()) - (1 - float(ratio))) < 0.01


def test_time_travel_repeats_every_step_but_the_last() -> None:
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(5)
    calls: list[int] = []

    def count(x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        calls.append(int(step.t[0, 0]))
        return x

    g = torch.Generator().manual_seed(0)
    sample(count, draw(0), TEXT, scheduler=scheduler, timesteps=scheduler.timesteps, travel=TimeTravel(scheduler, 3, g))
    times = scheduler.timesteps.tolist()
    assert calls == [t for t in times[:-1] for _ in range(3)] + times[-1:]


def test_time_travel_refuses_schedulers_that_remember() -> None:
    TimeTravel(EulerDiscreteScheduler(), 1)
    with pytest.raises(RangeError, match="EulerDiscreteScheduler"):
        TimeTravel(EulerDiscreteScheduler(), 2)


def test_blending_samples_the_conditional_of_a_gaussian() -> None:
    """Two modalities of covariance [[1, r], [r, 1]] with the exact denoiser: time travel brings the asked one's mean to r x the known."""
    r, value = 0.8, 1.5
    scheduler = DDIMScheduler(clip_sample=False, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, set_alpha_to_one=False)
    scheduler.set_timesteps(50)

    def exact(x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        a = scheduler.alphas_cumprod[int(step.t[0, 0])]
        noisy = a * torch.tensor([[1, r], [r, 1]]) + (1 - a) * torch.eye(2)
        score = -torch.einsum("ij,bjchw->bichw", noisy.inverse(), x)
        return -(1 - a).sqrt() * score

    latents = torch.full((1, 2, 1, 64, 64), value)
    asked = torch.zeros(1, 2, 1, 64, 64, dtype=torch.bool)
    asked[:, 1] = True

    def mean_of_asked(repeats: int) -> float:
        g = torch.Generator().manual_seed(0)
        blend, travel = (
            Blend(Known(latents, asked), scheduler, ScheduledProcess(scheduler), fresh_noise(latents, g)),
            TimeTravel(scheduler, repeats, g),
        )
        x = torch.randn(1, 2, 1, 64, 64, generator=g)
        out = sample(exact, x, TEXT, scheduler=scheduler, timesteps=scheduler.timesteps, generator=g, eta=1.0, blend=blend, travel=travel)
        return float(out[:, 1].mean())

    once, often = mean_of_asked(1), mean_of_asked(8)
    assert abs(often - r * value) < 0.1
    assert abs(often - r * value) < abs(once - r * value)


def test_a_hook_before_the_step_moves_the_state_that_is_stepped() -> None:
    """As SyncDiffusion does: the denoiser and the scheduler both start from the moved state."""
    scheduler, start = DDIMScheduler(clip_sample=False), draw(3)
    scheduler.set_timesteps(3)
    steps: list[Step] = []

    def halve(x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        steps.append(step)
        return x / 2

    moved = sample(shrink, start, TEXT, scheduler=scheduler, timesteps=scheduler.timesteps, before_step=halve)
    x = start
    for t in scheduler.timesteps:
        x = scheduler.step(0.9 * (x / 2), t, x / 2).prev_sample
    assert torch.equal(moved, x)
    assert [(step.index, step.count) for step in steps] == [(0, 3), (1, 3), (2, 3)]
    assert [None if step.t_next is None else int(step.t_next) for step in steps] == [*scheduler.timesteps.tolist()[1:], None]
