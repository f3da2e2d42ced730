"""Distances of feature sets against torchmetrics, torch-fidelity and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import calc_cdist_part, prc_features_to_metric  # noqa: F401 - the first is what the second needs
from torchmetrics.image.fid import _compute_fid

from jointnet.evaluation.metrics.distribution import (
    Gaussian,
    Moments,
    cmmd,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)


def features(count: int, seed: int, shift: float = 0.0, dimension: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, (count, dimension)) @ np.diag(np.linspace(0.5, 1.5, dimension))


def test_moments_in_parts_are_those_of_all() -> None:
    x = features(101, 0)
    parts, other = Moments(), Moments()
    parts.add(x[:7])
    parts.add(x[7:50])
    other.add(x[50:])
    parts.merge(other)
    expected, found = Gaussian.of(x), parts.gaussian()
    assert parts.count == 101
    assert np.allclose(found.mean, expected.mean, rtol=1e-12)
    assert np.allclose(found.covariance, expected.covariance, rtol=1e-10, atol=1e-14)


def test_frechet_distance_is_torchmetrics() -> None:
    a, b = features(300, 0), features(200, 1, 0.3)
    mean_a, mean_b = (torch.from_numpy(x.mean(0)) for x in (a, b))
    covariances = [torch.from_numpy(np.cov(x, rowvar=False)) for x in (a, b)]
    expected = float(_compute_fid(mean_a, covariances[0], mean_b, covariances[1]))
    assert frechet_distance(Gaussian.of(a), Gaussian.of(b)) == pytest.approx(expected, rel=1e-6)


def test_kernel_distance_is_torch_fidelitys_on_whole_sets() -> None:
    a, b = features(60, 0), features(60, 1, 0.5)
    theirs = kid_features_to_metric(
        torch.from_numpy(a), torch.from_numpy(b), kid_subsets=2, kid_subset_size=60, kid_kernel="poly", rng_seed=0, verbose=False
    )
    mean, _ = kernel_distance(a, b, num_subsets=2, subset=60)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)


def test_inception_score_is_torch_fidelitys() -> None:
    logits = torch.randn(50, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    theirs = isc_features_to_metric(logits, splits=5, shuffle=False)
    mean, spread = inception_score(logits.softmax(1).numpy(), splits=5)
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert spread == pytest.approx(theirs["inception_score_std"], rel=1e-6)
    with pytest.raises(ValueError, match="splits"):
        inception_score(np.eye(3), splits=4)


def test_precision_and_recall_are_torch_fidelitys() -> None:
    real, made = features(80, 0), features(70, 1, 0.8)
    theirs = prc_features_to_metric(
        torch.from_numpy(real), torch.from_numpy(made), prc_neighborhood=3, prc_batch_size=64, save_cpu_ram=False, verbose=False
    )
    found = precision_recall(real, made, block=16)
    assert (found.precision, found.recall) in (
        pytest.approx((theirs["precision"], theirs["recall"])),
        pytest.approx((theirs["recall"], theirs["precision"])),  # they name the first of their two sets otherwise
    )


def test_precision_is_of_what_was_made_and_recall_of_the_reference() -> None:
    """A model that makes one of two clusters is precise and forgets the other."""
    rng = np.random.default_rng(0)
    both = np.concatenate([rng.normal(0, 1, (50, 4)), rng.normal(30, 1, (50, 4))])
    one = rng.normal(0, 1, (50, 4))
    found = precision_recall(both, one)
    assert found.precision > 0.8
    assert found.recall < 0.6


def test_cmmd_of_two_points_in_closed_form_whatever_the_block() -> None:
    a, b = np.array([[1.0, 0.0]] * 3), np.array([[0.0, 1.0]] * 5)
    expected = 1000 * (2 - 2 * np.exp(-2 / (2 * 10**2)))
    assert cmmd(a, b) == pytest.approx(expected)
    assert cmmd(a, b, block=2) == pytest.approx(expected)
