from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler
from torch import Tensor

from jointnet.errors import RangeError
from jointnet.sampling.guidance import Guided
from jointnet.sampling.loop import run_steps, sample
from jointnet.sampling.tiling import Tiled, Tiling
from jointnet.types import Conditioning, Known, Step, Text

NUM_STEPS = 10


class Recorder:
    """A denoiser that blurs its input with its neighbours, so that a tile's edge matters; remembers what it was given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.conditionings: list[Conditioning] = []

    def __call__(self, x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        self.shapes.append(tuple(x.shape))
        self.conditionings.append(conditioning)
        return x + x.mean((-1, -2), keepdim=True) * step.t[:, :, None, None, None] / 1000


def text(batch: int) -> Conditioning:
    return Conditioning(Text(torch.arange(batch, dtype=torch.float32)[:, None, None].expand(batch, 3, 4)))


def canvas(batch: int = 1, height: int = 16, width: int = 64) -> Tensor:
    return torch.randn(batch, 2, 4, height, width, generator=torch.Generator().manual_seed(0))


def at(x: Tensor, t: int) -> Step:
    """A step of a run whose timesteps are 900, 800, ... 0."""
    return Step((900 - t) // 100, NUM_STEPS, torch.full(x.shape[:2], t))


def test_one_tile_equals_untiled() -> None:
    x = canvas(width=16)
    tiled = Tiled(Recorder(), Tiling(window=16), torch.Generator().manual_seed(0))
    assert torch.equal(tiled(x, at(x, 900), text(1)), Recorder()(x, at(x, 900), text(1)))


def test_a_pointwise_denoiser_does_not_see_the_tiles() -> None:
    x = canvas(2)

    def triple(x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        return 3 * x

    tiled = Tiled(triple, Tiling(window=16, wraps=True), torch.Generator().manual_seed(0))
    assert torch.allclose(tiled(x, at(x, 500), text(2)), 3 * x, atol=1e-5)


def test_the_whole_image_takes_part_in_the_first_share_of_the_steps() -> None:
    x = canvas()
    for index in range(NUM_STEPS):
        recorder = Recorder()
        Tiled(recorder, Tiling(window=16, whole_share=0.4), torch.Generator())(x, at(x, 900 - 100 * index), text(1))
        assert (tuple(x.shape) in recorder.shapes) == (index < 4)


def test_the_whole_image_takes_part_in_every_so_many_of_them() -> None:
    x, with_whole = canvas(), []
    for index in range(NUM_STEPS):
        recorder = Recorder()
        Tiled(recorder, Tiling(window=16, whole_share=0.6, whole_every=3), torch.Generator())(x, at(x, 900 - 100 * index), text(1))
        with_whole += [index] * (tuple(x.shape) in recorder.shapes)
    assert with_whole == [0, 3]


def test_the_whole_image_stands_alone_at_first() -> None:
    x = canvas()
    for index in range(NUM_STEPS):
        recorder, here = Recorder(), at(x, 900 - 100 * index)
        made = Tiled(recorder, Tiling(window=16, whole_share=0, alone_share=0.3, wraps=True), torch.Generator())(x, here, text(1))
        assert (recorder.shapes == [tuple(x.shape)]) == (index < 3)
        assert torch.equal(made, Recorder()(x, here, text(1))) == (index < 3)


@pytest.mark.parametrize("changes", [{"alone_share": 1.1}, {"whole_share": -0.1}, {"whole_every": 0}, {"batch_size": 0}])
def test_shares_and_counts_that_are_none_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(RangeError, match=next(iter(changes))):
        Tiling(window=16, **changes)  # pyright: ignore[reportArgumentType] - of any field


def test_steps_that_call_twice_count_once_for_the_whole_image() -> None:
    """A solver of second order looks twice at all noise levels but the first: 0.4 of these five are the first two, three calls."""
    scheduler, recorder, x = HeunDiscreteScheduler(), Recorder(), canvas()
    scheduler.set_timesteps(5)
    tiled = Tiled(recorder, Tiling(window=16), torch.Generator().manual_seed(0))
    for step in run_steps(scheduler, scheduler.timesteps, x):
        tiled(x, step, text(1))
    assert [shape[-1] for shape in recorder.shapes].count(x.shape[-1]) == 3


def test_equal_timesteps_of_different_steps_are_told_apart() -> None:
    """Karras sigmas round to timesteps that come twice: the whole image still takes part in 0.4 of the steps."""
    scheduler, recorder, x = EulerDiscreteScheduler(use_karras_sigmas=True, timestep_spacing="trailing"), Recorder(), canvas()
    scheduler.set_timesteps(50)
    scheduler.timesteps[:10] = scheduler.timesteps[0]
    tiled = Tiled(recorder, Tiling(window=16), torch.Generator().manual_seed(0))
    for step in run_steps(scheduler, scheduler.timesteps, x):
        tiled(x, step, text(1))
    assert [shape[-1] for shape in recorder.shapes].count(x.shape[-1]) == 20


def test_tiles_are_merged_in_float32() -> None:
    """In bfloat16 sums of many weighted tiles would lose bits: the merged canvas is the rounded exact one."""
    x = canvas().bfloat16()

    def by_place(x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        return x * torch.linspace(0.5, 1.5, x.shape[-1], dtype=x.dtype)

    tiling = Tiling(window=16, stride=2, has_random_offset=False, whole_share=0)
    windows, total, weight = tiling.on((16, 64)), torch.zeros_like(x, dtype=torch.float64), torch.zeros(16, 64, dtype=torch.float64)
    for window in windows.at():
        tile = window.cut(x)
        window.add_to(total, windows.weights().double() * by_place(tile, at(tile, 300), text(1)).double())
        window.add_to(weight, windows.weights().double())
    merged = Tiled(by_place, tiling)(x, at(x, 300), text(1))
    assert merged.dtype == torch.bfloat16
    assert torch.equal(merged, (total / weight).float().bfloat16())


def test_the_whole_image_weighs_as_said() -> None:
    x = canvas()

    def by_width(x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        return torch.full_like(x, float(x.shape[-1] == 64))

    tiling = Tiling(window=16, stride=16, decay=0, whole_weight=5, has_random_offset=False)
    merged = Tiled(by_width, tiling, None)(x, at(x, 900), text(1))
    assert torch.allclose(merged, torch.full_like(x, 5 / 6))


def test_a_seed_gives_the_same_offsets_and_steps_differ() -> None:
    x = canvas()

    def run(seed: int) -> list[Tensor]:
        tiled = Tiled(Recorder(), Tiling(window=16), torch.Generator().manual_seed(seed))
        return [tiled(x, at(x, 300), text(1)) for _ in range(4)]

    first = run(0)
    assert all(torch.equal(a, b) for a, b in zip(first, run(0), strict=True))
    assert any(not torch.equal(first[0], other) for other in first[1:])


def test_with_a_generator_each_a_batch_equals_its_single_canvases() -> None:
    x = canvas(2)
    both = Tiled(Recorder(), Tiling(window=16), [torch.Generator().manual_seed(s) for s in (3, 4)])(x, at(x, 300), text(2))
    for i in range(2):
        alone = Tiled(Recorder(), Tiling(window=16), [torch.Generator().manual_seed(3 + i)])
        assert torch.allclose(both[i : i + 1], alone(x[i : i + 1], at(x[:1], 300), text(1)), atol=1e-6)


def test_tiles_of_a_batch_keep_their_prompt_and_their_part_of_the_masks() -> None:
    x = canvas(2)
    recorder = Recorder()
    told = Conditioning(text(2).text, known=Known(x, x[:, :, :1] > 0))
    made = Tiled(recorder, Tiling(window=16, batch_size=3, whole_share=0), torch.Generator().manual_seed(0))(x, at(x, 300), told)
    assert max(len(c.text.embeds) for c in recorder.conditionings) == 3
    at_once = Tiling(window=16, batch_size=100, whole_share=0)
    assert torch.allclose(made, Tiled(Recorder(), at_once, torch.Generator().manual_seed(0))(x, at(x, 300), told), atol=1e-6)
    seen = [c for c in recorder.conditionings if c.known is not None]
    assert seen
    for conditioning in seen:
        assert conditioning.known is not None
        for row, latents, mask in zip(
            conditioning.text.embeds[:, 0, 0].int(), conditioning.known.latents, conditioning.known.asked, strict=True
        ):
            assert torch.equal(mask, latents[:, :1] > 0)
            assert any(torch.equal(latents, x[row, ..., start : start + 16]) for start in range(49))


@pytest.mark.parametrize("width", [64, 16])
def test_wrapping_has_no_seam(width: int) -> None:
    """Turning the canvas by a stride turns the prediction: no column is special, also where the canvas is as wide as a window."""
    x = canvas()[..., :width]

    def by_column(x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        return x * torch.linspace(0, 1, x.shape[-1])

    def is_turned_along(tiling: Tiling) -> bool:
        tiled = Tiled(by_column, tiling, None)
        turned, plain = (tiled(part, at(x, 300), text(1)) for part in (x.roll(8, -1), x))
        return torch.allclose(turned, plain.roll(8, -1), atol=1e-5)

    assert is_turned_along(Tiling(window=16, wraps=True, has_random_offset=False))
    assert not is_turned_along(Tiling(window=16, has_random_offset=False))


def test_merging_predictions_equals_merging_linear_steps() -> None:
    x = canvas()
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(10)
    tiling = Tiling(window=16, has_random_offset=False, whole_share=0)
    merged = Tiled(Recorder(), tiling, None)(x, at(x, 500), text(1))
    ours = scheduler.step(merged, 500, x).prev_sample
    windows = tiling.on((16, 64))
    total, weight = torch.zeros_like(x), torch.zeros(16, 64)
    for window in windows.at():
        tile = window.cut(x)
        stepped = scheduler.step(Recorder()(tile, at(tile, 500), text(1)), 500, tile).prev_sample
        window.add_to(total, windows.weights() * stepped)
        window.add_to(weight, windows.weights())
    assert torch.allclose(ours, total / weight, atol=1e-5)


@pytest.mark.parametrize("make", [DDIMScheduler, EulerDiscreteScheduler])
def test_it_runs_with_guidance_inside_and_any_scheduler_outside(make: type) -> None:
    scheduler = make()
    scheduler.set_timesteps(5)
    told = Conditioning(text(1).text, negative=text(1).text)
    tiled = Tiled(Guided(Recorder(), 2.0), Tiling(window=16), torch.Generator().manual_seed(0))
    x = sample(tiled, canvas() * scheduler.init_noise_sigma, told, scheduler=scheduler, timesteps=scheduler.timesteps)
    assert torch.isfinite(x).all()
