from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jointnet.pipelines.joint_net import JointNetPipeline
from jointnet.tasks.conventions import PAPER, PRESETS, RELEASE, Conventions, resize_lanczos

DOCS = Path(__file__).parents[2] / "docs"
PROMPT = "a red ball"


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_presets_differ_in_every_convention_and_the_docs_name_each() -> None:
    page = (DOCS / "conventions.md").read_text()
    assert PRESETS == {"paper": PAPER, "release": RELEASE}
    for field in fields(Conventions):
        assert getattr(PAPER, field.name) != getattr(RELEASE, field.name)
        assert field.name == "name" or f"`{field.name}`" in page


@torch.no_grad()
def test_depth_is_the_mean_of_the_channels_or_the_first_of_them(pipeline: JointNetPipeline) -> None:
    options = {"num_inference_steps": 2, "output_type": "pt"}
    latents = pipeline(PROMPT, generator=seeded(), **{**options, "output_type": "latent"}).images[:, 4:]
    decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    mean = pipeline(PROMPT, generator=seeded(), **options).depth
    first = pipeline(PROMPT, generator=seeded(), conventions=RELEASE, **options).depth
    assert torch.allclose(mean, (decoded.mean(1, keepdim=True) + 1) / 2, atol=1e-5)
    assert torch.allclose(first, (decoded[:, :1] + 1) / 2, atol=1e-5)
    assert not torch.allclose(mean, first, atol=1e-3)
    predicted = pipeline.predict(torch.rand(1, 3, 32, 32, generator=seeded()), conventions=RELEASE, generator=seeded(), **options)
    assert predicted.depth.isfinite().all()


@pytest.mark.parametrize(("conventions", "whole_steps"), [(PAPER, 4), (RELEASE, 5)])
def test_the_whole_image_takes_part_in_its_share_of_the_steps(
    pipeline: JointNetPipeline, conventions: Conventions, whole_steps: int
) -> None:
    widths: list[int] = []
    pipeline.joint_unet.register_forward_pre_hook(lambda _, arguments: widths.append(arguments[0].shape[-1]))
    pipeline.panorama(PROMPT, num_inference_steps=10, width=64, conventions=conventions, generator=seeded())
    assert widths.count(32) == whole_steps
    pipeline(PROMPT, num_inference_steps=10, width=64, tiling=pipeline.tiling(whole_share=0.0), conventions=conventions)
    assert widths.count(32) == whole_steps


def test_lanczos_is_pillows() -> None:
    picture = torch.rand(2, 3, 8, 12, generator=seeded())
    large = resize_lanczos(picture, (16, 24))
    expected = Image.fromarray(picture[1, 2].numpy()).resize((24, 16), Image.Resampling.LANCZOS)
    assert large.shape == (2, 3, 16, 24)
    assert np.allclose(large[1, 2].numpy(), np.asarray(expected).clip(0, 1))
