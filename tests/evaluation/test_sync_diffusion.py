"""SyncDiffusion's step on a state: windows come nearer to the anchor, the anchor's own gradient is none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from jointnet.errors import UnsupportedBaseError
from jointnet.evaluation.sync_diffusion import SyncDiffusion
from jointnet.types import Conditioning, Step, Text
from tests.conftest import tiny_pipeline


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean((1, 2, 3))


def tools(prediction: float = 0.0) -> Any:
    """A denoiser that predicts the clean state to be ``prediction`` times the state, and a codec that is none."""
    config = SimpleNamespace(prediction_type="sample")
    scheduler = SimpleNamespace(alphas_cumprod=torch.full((10,), 0.5), config=config)
    return SimpleNamespace(denoiser=lambda x, *_: prediction * x, codec=SimpleNamespace(decode=lambda _, x: x), scheduler=scheduler)


def moved(x: Tensor, weight: float, index: int = 0) -> Tensor:
    step = Step(index, 5, torch.full(x.shape[:2], 3), None)
    sync = SyncDiffusion(distance=distance, window=4, stride=4, weight=weight, decay=0.5)
    return sync(tools(1.0))(x, step, Conditioning(Text(torch.zeros(len(x), 1, 1))))


def test_windows_move_towards_the_middle_one_which_stays() -> None:
    x = torch.zeros(2, 1, 3, 4, 12)
    x[..., :4], x[..., 8:] = 1.0, -1.0
    after = moved(x, weight=1.0)
    assert torch.equal(after[..., 4:8], x[..., 4:8])
    # the gradient of mean (2 x - 2 a)^2 over 48 values is 8 (x - a) / 48
    assert torch.allclose(after[..., :4], torch.tensor(1 - 8 / 48))
    assert torch.allclose(after[..., 8:], torch.tensor(-1 + 8 / 48))
    assert torch.allclose(moved(x, weight=1.0, index=1)[..., :4], torch.tensor(1 - 4 / 48))  # the weight decays


def test_flow_matching_is_refused() -> None:
    with pytest.raises(UnsupportedBaseError, match="alphas_cumprod"):
        SyncDiffusion(distance=distance, window=4, stride=4)(SimpleNamespace(scheduler=object()))


def test_a_panorama_takes_it_and_differs() -> None:
    pipeline = tiny_pipeline()
    pipeline.joint_unet.requires_grad_(False)
    side = pipeline.default_size
    window = side // pipeline.codec.factor
    made = [
        pipeline.panorama(
            "a ball",
            width=2 * side,
            num_inference_steps=2,
            before_step=hook,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images
        for hook in (None, SyncDiffusion(distance=distance, window=window, stride=window))
    ]
    assert made[0].shape == made[1].shape
    assert not torch.equal(*made)
