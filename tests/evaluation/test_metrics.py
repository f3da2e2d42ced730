from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch.nn.functional import avg_pool2d

from jointnet.evaluation.metrics.alignment import align_disparity, fit_scale_shift
from jointnet.evaluation.metrics.depth import abs_rel, boundary_f1, delta, rmse
from jointnet.evaluation.metrics.distribution import Gaussian, bootstrap_frechet, frechet_distance, kernel_distance
from jointnet.evaluation.metrics.image import psnr
from jointnet.evaluation.metrics.normal import angles_deg


def test_scale_and_shift_are_the_least_squares_solution() -> None:
    g = torch.Generator().manual_seed(0)
    p, target, valid = torch.rand(30, 30, generator=g), torch.rand(30, 30, generator=g), torch.rand(30, 30, generator=g) > 0.3
    fitted = fit_scale_shift(p, target, valid)
    matrix = torch.stack([p[valid], torch.ones(int(valid.sum()))], 1).double()
    expected = torch.linalg.lstsq(matrix, target[valid].double()[:, None]).solution[:, 0]
    assert (fitted.scale, fitted.shift) == pytest.approx(tuple(expected.tolist()), rel=1e-6)


def test_a_constant_map_is_aligned_to_the_mean() -> None:
    fitted = fit_scale_shift(torch.ones(4, 4), torch.arange(16.0).reshape(4, 4), torch.ones(4, 4, dtype=torch.bool))
    assert (fitted.scale, fitted.shift) == (0.0, 7.5)


def test_too_few_pixels_are_an_error() -> None:
    with pytest.raises(ValueError, match="1 valid"):
        fit_scale_shift(torch.ones(2), torch.ones(2), torch.tensor([True, False]))


def test_any_affine_map_of_disparity_aligns_to_exact_depth() -> None:
    depth_m = 1.5 + 10 * torch.rand(20, 20)
    disparity = 1.5 / depth_m
    valid = torch.ones(20, 20, dtype=torch.bool)
    aligned = align_disparity(0.3 - 2 * disparity, disparity, valid, cap_m=20.0, unit=1.5)
    assert torch.allclose(aligned, depth_m, rtol=1e-4)
    assert abs_rel(aligned, depth_m, valid) < 1e-4
    assert delta(aligned, depth_m, valid) == 1


def test_depth_metrics_by_hand() -> None:
    p, d, valid = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([2.0, 2.0, 1.0]), torch.tensor([True, True, False])
    assert abs_rel(p, d, valid) == pytest.approx(0.25)
    assert delta(p, d, valid) == pytest.approx(0.5)
    assert delta(p, d, valid, n=4) == pytest.approx(1.0)
    assert rmse(p, d, valid) == pytest.approx(np.sqrt(0.5))


def test_psnr_by_hand() -> None:
    a = torch.zeros(2, 3, 4, 4)
    assert psnr(a, a + 0.1).tolist() == pytest.approx([20, 20], abs=1e-3)
    assert psnr(a, a + 0.1, data_range=2.0)[0] == pytest.approx(20 + 20 * np.log10(2), abs=1e-3)


def test_frechet_distance_against_scipys_matrix_root() -> None:
    rng = np.random.default_rng(0)
    a, b = Gaussian.of(rng.normal(size=(300, 12))), Gaussian.of(rng.normal(1, 2, size=(300, 12)) @ rng.normal(size=(12, 12)))
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * sqrtm(a.covariance @ b.covariance).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)


def test_frechet_distance_of_known_gaussians() -> None:
    one, two = Gaussian(np.zeros(3), np.eye(3)), Gaussian(np.full(3, 2.0), 4 * np.eye(3))
    assert frechet_distance(one, two) == pytest.approx(3 * 4 + 3 * 1)


def test_the_bootstrap_interval_holds_the_truth() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(20):
        interval = bootstrap_frechet(rng.normal(size=(400, 2)), rng.normal(0.5, 1, size=(400, 2)), num_draws=60, seed=2)
        assert interval.low < interval.high
        covered += interval.low <= 0.5 <= interval.high
    assert covered >= 16


def test_less_its_bias_the_frechet_distance_of_few_samples_is_nearer_the_truth() -> None:
    rng = np.random.default_rng(3)
    draws = [bootstrap_frechet(rng.normal(size=(80, 8)), rng.normal(0.5, 1, size=(80, 8)), num_draws=30) for _ in range(20)]
    truth = 8 * 0.5**2
    plain, corrected = np.mean([d.value for d in draws]), np.mean([d.corrected for d in draws])
    assert plain > truth
    assert abs(corrected - truth) < 0.6 * (plain - truth)
    assert all(d.low <= d.corrected <= d.high for d in draws)


def test_kernel_distance_is_unbiased_and_separates() -> None:
    rng = np.random.default_rng(2)
    a, b, c = rng.normal(size=(500, 8)), rng.normal(size=(500, 8)), rng.normal(0.5, 1, size=(500, 8))
    same, spread = kernel_distance(a, b, num_subsets=20, subset=200)
    assert abs(same) < 4 * spread
    assert kernel_distance(a, c, num_subsets=20, subset=200)[0] > 10 * abs(same)


def test_boundary_f1_of_a_map_with_itself_is_1_and_blur_lowers_it() -> None:
    depth = torch.full((32, 32), 8.0)
    depth[8:20, 8:20] = 2.0
    assert boundary_f1(depth, depth) == pytest.approx(1)
    blurred = avg_pool2d(depth[None, None], 5, 1, 2, count_include_pad=False)[0, 0]
    assert 0 < boundary_f1(blurred, depth) < 0.8
    assert boundary_f1(torch.full((32, 32), 8.0), depth) == 0


def test_boundary_f1_by_hand() -> None:
    truth = torch.tensor([[1.0, 2.0, 2.0, 2.0, 1.0]])
    found = torch.tensor([[1.0, 2.0, 4.0, 2.0, 2.0]])
    # to the right: truth has 1 edge, found 2, one of them right; to the left: truth has 1, found 1, wrong; no edge up or down
    precision, recall = (1 / 2 + 0) / 4, (1 + 0) / 4
    assert boundary_f1(found, truth, (1.1,)) == pytest.approx(2 * precision * recall / (precision + recall))
    assert boundary_f1(truth[:, :4].flip(1), truth[:, :4], (1.1,)) == 0


def test_angles_of_known_rotations() -> None:
    n = torch.zeros(3, 2, 2)
    n[2] = 1
    angle = torch.tensor(30.0).deg2rad()
    p = torch.stack([torch.full((2, 2), float(angle.sin())), torch.zeros(2, 2), torch.full((2, 2), float(angle.cos()))])
    p[:, 0, 0] = 0
    degrees = angles_deg(p, n, torch.ones(2, 2, dtype=torch.bool))
    assert degrees.tolist() == pytest.approx([90, 30, 30, 30], abs=1e-3)
