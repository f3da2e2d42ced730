"""Presets of speed, on every task."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from jointnet import JointNetPipeline
from jointnet.cli.main import main
from jointnet.errors import UnknownNameError
from jointnet.sampling.speed import Speed
from jointnet.sampling.tiling import Tiling
from jointnet.tasks.generate import Generate
from jointnet.tasks.options import SamplingOptions

DEEP = Speed(steps=4, deep_every=2, layers=1, guides_dense=False)
PICTURE = Image.new("RGB", (64, 64), "olive")
SLOPE = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


TASKS: dict[str, Callable[[JointNetPipeline, Any], Any]] = {
    "generate": lambda pipe, speed: pipe("a ball", guidance_scale=3.0, generator=seeded(), output_type="pt", speed=speed),
    "predict": lambda pipe, speed: pipe.predict(PICTURE, generator=seeded(), output_type="pt", speed=speed),
    "refine": lambda pipe, speed: pipe.refine(PICTURE, dense={"depth": SLOPE}, generator=seeded(), speed=speed),
    "panorama": lambda pipe, speed: pipe.panorama("a ball", width=128, generator=seeded(), speed=speed),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("speed", ["balanced", "fast", DEEP, Speed(steps=3, rests_every=2)], ids=["balanced", "fast", "deep", "resting"])
def test_every_task_runs_at_every_speed(pipeline: JointNetPipeline, task: str, speed: str | Speed) -> None:
    first, again = (np.asarray(TASKS[task](pipeline, speed).images[0]) for _ in range(2))
    assert np.array_equal(first, again)


def test_exact_is_what_no_word_gives(pipeline: JointNetPipeline) -> None:
    plain = pipeline("a ball", generator=seeded(), num_inference_steps=3, output_type="pt")
    exact = pipeline("a ball", generator=seeded(), num_inference_steps=3, output_type="pt", speed="exact")
    assert torch.equal(plain.images, exact.images)


def test_a_speed_brings_its_steps_unless_they_are_said(pipeline: JointNetPipeline) -> None:
    seen: list[int] = []

    def count(_pipe: Any, step: int, _t: Any, _tensors: Any) -> dict:
        seen.append(step)
        return {}

    for steps, expected in ((None, 4), (2, 2)):
        seen.clear()
        pipeline("a ball", num_inference_steps=steps, speed=DEEP, callback_on_step_end=count)
        assert len(seen) == expected


def test_a_deep_step_costs_less_and_windows_keep_their_own(pipeline: JointNetPipeline) -> None:
    still = Tiling(window=8, whole_share=0.0, has_random_offset=False)

    def operations(speed: str | Speed) -> int:
        with FlopCounterMode(display=False) as counter:
            pipeline("a ball", 64, 128, 4, guidance_scale=3.0, generator=seeded(), tiling=still, output_type="latent", speed=speed)
        return counter.get_total_flops()

    assert operations(Speed(deep_every=2)) < 0.8 * operations("exact")
    assert operations(Speed(deep_every=4, guides_dense=False)) < 0.5 * operations("exact")


def test_windows_that_move_stay_as_long_as_something_is_kept_of_them(pipeline: JointNetPipeline) -> None:
    moving = Tiling(window=8, whole_share=0.0)

    def operations(speed: str | Speed, tiling: Tiling) -> int:
        with FlopCounterMode(display=False) as counter:
            pipeline("a ball", 64, 128, 4, generator=seeded(), tiling=tiling, output_type="latent", speed=speed)
        return counter.get_total_flops()

    assert operations(Speed(deep_every=2), moving) < 0.8 * operations("exact", moving)


def test_a_speed_brings_its_windows_unless_they_are_said(pipeline: JointNetPipeline) -> None:
    def tiling(**options: Any) -> Tiling:
        found = pipeline.joint_model().tiling(SamplingOptions(tiled=True, **options), (64, 256))
        assert found is not None
        return found

    wide = Speed(stride=0.75, alone_share=0.4)
    window, factor = tiling().window, pipeline.codec.factor
    assert tiling().stride is None
    assert (tiling(speed=wide).stride, tiling(speed=wide).alone_share) == (round(0.75 * window), 0.4)
    assert tiling(speed=wide, stride=2 * factor).stride == 2
    asked = Tiling(window=window, stride=3)
    assert pipeline.joint_model().tiling(SamplingOptions(tiled=asked, speed=wide), (64, 256)) == asked


def test_windows_far_apart_and_a_whole_canvas_first_cost_less(pipeline: JointNetPipeline) -> None:
    def operations(**speed: Any) -> int:
        with FlopCounterMode(display=False) as counter:
            options = SamplingOptions(tiled=True, generator=seeded(), speed=Speed(steps=4, **speed), output_type="latent")
            pipeline.run(Generate(prompt="a ball", height=64, width=256, options=options))
        return counter.get_total_flops()

    paper = operations()
    assert operations(stride=1.0) < 0.8 * paper
    assert operations(alone_share=0.5) < 0.9 * paper


def test_an_unknown_speed_is_one_line(pipeline: JointNetPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownNameError, match="exact, balanced, fast"):
        pipeline("a ball", speed="warp")
    assert main(["generate", "a red ball", "--speed", "warp", "-o", str(tmp_path / "out")]) == 2
    assert "expected one of exact, balanced, fast" in capsys.readouterr().err
    assert main(["generate", "a red ball", "--speed", "fast", "--scheduler", "ddim", "-o", str(tmp_path / "out")]) == 2
    assert "--scheduler" in capsys.readouterr().err


def test_the_speed_of_a_picture_stands_beside_it(tmp_path: Path) -> None:
    assert main(["generate", "a red ball in a white room", "--speed", "fast", "--steps", "2", "-o", str(tmp_path / "out")]) == 0
    facts = json.loads((tmp_path / "out" / "result.json").read_text())
    assert facts["sampling"]["speed"] == "fast"
    assert facts["sampling"]["num_inference_steps"] == 2
    assert facts["scheduler"] == "DPMSolverMultistepScheduler"
