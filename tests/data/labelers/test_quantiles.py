"""Estimates known up to scale and shift become disparity in [0, 1]."""

from __future__ import annotations

import numpy as np
import torch

from jointnet.data.labelers.quantiles import quantiles_to_01


def test_the_quantiles_become_0_and_1_and_what_lies_beyond_is_clipped() -> None:
    ramp = torch.arange(101.0).flip(0).reshape(1, 1, 101, 1) * 7 - 30  # quantiles lie on pixels: 2 and 98
    expected = ((torch.arange(101.0).flip(0) - 2) / 96).clamp(0, 1)
    torch.testing.assert_close(quantiles_to_01(ramp).flatten(), expected)


def test_it_is_the_map_that_numpys_quantiles_give() -> None:
    maps = torch.randn(3, 1, 17, 23, generator=torch.Generator().manual_seed(0)) ** 3
    for raw, scaled in zip(maps.numpy(), quantiles_to_01(maps), strict=True):
        low, high = np.quantile(raw.astype(np.float64), [0.02, 0.98])
        np.testing.assert_allclose(scaled.numpy(), np.clip((raw - low) / (high - low), 0, 1), atol=1e-6)


def test_scale_and_shift_do_not_matter() -> None:
    maps = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(quantiles_to_01(maps * 40 - 7), quantiles_to_01(maps), atol=1e-5, rtol=0)


def test_a_constant_map_is_0_and_leaves_the_others_as_they_are() -> None:
    maps = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    maps[0] = 5.0
    scaled = quantiles_to_01(maps)
    assert (scaled[0] == 0).all()
    assert torch.equal(scaled[1:], quantiles_to_01(maps[1:]))
