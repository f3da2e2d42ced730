"""Depth and normal metrics against libraries and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from jointnet.evaluation.metrics.depth import DEPTH_METRICS, silog
from jointnet.evaluation.metrics.normal import AngleTotals, angles_deg, normal_errors
from jointnet.evaluation.metrics.relative_normal import relative_normal_error, triangle_normals
from jointnet.geometry.projection import Pinhole


def test_depth_metrics_equal_numpys() -> None:
    rng = np.random.default_rng(0)
    d = rng.uniform(1, 10, (40, 50))
    p = d * np.exp(rng.normal(0, 0.2, d.shape))
    e, ratio = np.log(p) - np.log(d), np.maximum(p / d, d / p)
    expected = {
        "abs_rel": np.mean(np.abs(p - d) / d),
        "sq_rel": np.mean((p - d) ** 2 / d),
        "rmse": np.sqrt(np.mean((p - d) ** 2)),
        "rmse_log": np.sqrt(np.mean(e**2)),
        "log10": np.mean(np.abs(np.log10(p / d))),
        "silog": 100 * np.std(e),
        "irmse": np.sqrt(np.mean((1 / p - 1 / d) ** 2)),
        **{f"delta{n}": np.mean(ratio < 1.25**n) for n in (1, 2, 3)},
    }
    valid = torch.ones(40, 50, dtype=torch.bool)
    found = {name: metric(torch.from_numpy(p), torch.from_numpy(d), valid) for name, metric in DEPTH_METRICS.items()}
    assert found == pytest.approx(expected, rel=1e-6)


def test_silog_is_blind_to_scale() -> None:
    d = torch.rand(9, 9, dtype=torch.float64) + 1
    assert silog(3 * d, d, d > 0) == pytest.approx(0, abs=1e-5)


def test_totals_of_all_pixels_equal_the_errors_of_all_angles() -> None:
    g = torch.Generator().manual_seed(0)
    parts = [180 * torch.rand(count, generator=g) ** 2 for count in (10, 2000, 7)]
    first, second = AngleTotals(), AngleTotals()
    first.add(parts[0])
    second.add(parts[1])
    second.add(parts[2])
    first.merge(second)
    exact = normal_errors(torch.cat(parts))
    assert first.errors() == pytest.approx(exact, rel=1e-4, abs=0.02)
    assert first.errors()["below_11.25"] == pytest.approx(exact["below_11.25"], abs=1e-6)


def test_angles_of_known_turns() -> None:
    n = torch.zeros(3, 1, 4)
    n[2] = 1
    turns = torch.deg2rad(torch.tensor([[0.0, 10.0, 90.0, 180.0]]))
    p = torch.stack([turns.sin(), torch.zeros(1, 4), turns.cos()])
    assert angles_deg(p, n, torch.ones(1, 4, dtype=torch.bool)).tolist() == pytest.approx([0, 10, 90, 180], abs=0.05)


def points_of(depth: np.ndarray) -> torch.Tensor:
    rays = Pinhole(60).rays(*depth.shape)
    return torch.from_numpy(rays * depth[..., None]).permute(2, 0, 1)


def test_relative_normals_of_a_plane_are_0_however_it_is_tilted() -> None:
    """A wrong tilt turns all normals alike; bumps do not."""
    rays = Pinhole(60).rays(48, 64)
    tilted = [-2 / (rays @ np.array([0.0, a, 1.0])) for a in (0.0, 0.3)]
    bumpy = tilted[0] * (1 + 0.01 * np.sin(np.arange(64)))
    valid = torch.ones(48, 64, dtype=torch.bool)
    assert relative_normal_error(points_of(tilted[1]), points_of(tilted[0]), valid, num_pairs=2000) < 1e-3
    assert relative_normal_error(points_of(bumpy), points_of(tilted[0]), valid, num_pairs=2000) > 0.1


def test_a_missing_prediction_counts_as_pi() -> None:
    flat, valid = np.full((40, 40), 2.0), torch.ones(40, 40, dtype=torch.bool)
    found = relative_normal_error(points_of(flat), points_of(flat), valid, ~valid, num_pairs=500)
    assert found == pytest.approx(math.pi)
    with pytest.raises(ValueError, match="no pair"):
        relative_normal_error(points_of(flat), points_of(flat), ~valid)


def test_triangle_normals_are_those_of_the_surface() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (normalize(torch.randn(3, generator=g, dtype=torch.float64), dim=0) for _ in range(2))
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    plane = rows * a[:, None, None] + columns * b[:, None, None]
    normals, has = triangle_normals(plane, torch.ones(6, 7, dtype=torch.bool))
    expected = normalize(torch.linalg.cross(a, b), dim=0)
    assert bool(has.all())
    assert torch.allclose(normals, expected[:, None, None].expand_as(normals), atol=1e-9)
