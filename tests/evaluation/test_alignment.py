from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from jointnet.evaluation.metrics.alignment import align_depth, fit_median_of_samples, fit_scale, fit_scale_shift


def maps(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    d = 1 + 9 * torch.rand(20, 30, generator=g)
    return 0.4 * d + 0.3 + 0.1 * torch.randn(20, 30, generator=g), d, torch.rand(20, 30, generator=g) > 0.2


def test_scale_is_scipys_minimum() -> None:
    p, d, valid = maps()
    x, y = p[valid].double().numpy(), d[valid].double().numpy()
    found = minimize(lambda s: ((s * x - y) ** 2).sum(), 1.0).x[0]
    assert fit_scale(p, d, valid).scale == pytest.approx(found, rel=1e-5)


def test_the_papers_alignment_is_near_least_squares_and_withstands_outliers() -> None:
    p, d, valid = maps()
    exact = fit_scale_shift(p, d, valid)
    sampled = fit_median_of_samples(p, d, valid, num_samples=300, repeats=101)
    assert (sampled.scale, sampled.shift) == pytest.approx((exact.scale, exact.shift), rel=0.05, abs=0.1)
    spoiled = d.clone()
    spoiled[0, :2] = 1e4
    assert fit_median_of_samples(p, spoiled, valid | True, num_samples=20, repeats=201).scale < 4
    assert fit_scale_shift(p, spoiled, valid | True).scale > 4


def test_the_papers_alignment_reads_pixels_above_0_only_and_depends_on_its_seed() -> None:
    p, d, valid = maps()
    p[:10] = -5
    whole = fit_median_of_samples(p, d, valid, num_samples=50, repeats=31, seed=1)
    upper = valid.clone()
    upper[:10] = False
    assert whole == fit_median_of_samples(p, d, upper, num_samples=50, repeats=31, seed=1)
    assert whole != fit_median_of_samples(p, d, upper, num_samples=50, repeats=31, seed=2)
    with pytest.raises(ValueError, match="above 0"):
        fit_median_of_samples(-p.abs(), d, valid, num_samples=5, repeats=3)


def test_aligned_depth_stays_in_the_range_of_the_data() -> None:
    p, d, valid = maps()
    aligned = align_depth(-50 * p, d, valid, cap_m=8.0)
    assert float(aligned.max()) <= 8
    assert float(aligned.min()) > 0
    assert float(np.abs(aligned - d.clamp(max=8)).mean()) < 0.6
