"""Normals from depth, beside planes worked out by hand and the demo world's exact normals."""

from __future__ import annotations

from dataclasses import dataclass
from math import radians, tan

import numpy as np
import pytest
import torch
from torch import Tensor

from jointnet.data.labelers.normals_from_depth import NormalsFromDepth, normals_of
from jointnet.demo.world.render import render
from jointnet.demo.world.scene import sample_scene
from jointnet.errors import RangeError
from jointnet.evaluation.metrics.normal import angles_deg
from tests.data.labelers.networks import pictures


@dataclass(frozen=True)
class Fixed:
    """A depth labeler that returns one map, whatever the picture."""

    disparity01: Tensor
    modality: str = "depth"
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - it cannot change

    def to(self, device: torch.device | str) -> Fixed:  # noqa: ARG002
        return self

    def __call__(self, rgb: Tensor) -> Tensor:
        return self.disparity01.expand(len(rgb), -1, -1, -1)

    def fingerprint(self) -> str:
        return "fixed"


def inverse_depth_of_plane(normal: tuple[float, float, float], height: int, width: int, fov_deg: float) -> Tensor:
    """1 / z of the plane n . P = -1 seen through a pinhole, (1, 1, H, W), worked out pixel by pixel."""
    focal = width / 2 / tan(radians(fov_deg) / 2)
    inverse = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            ray = np.array([(column + 0.5 - width / 2) / focal, (height / 2 - row - 0.5) / focal, -1.0])
            inverse[row, column] = -np.dot(normal, ray)  # z n . ray = -1
    return torch.from_numpy(inverse)[None, None].float()


@pytest.mark.parametrize(
    "normal",
    [(0.0, 0.0, 1.0), (0.0, 0.6, 0.8), (0.6, 0.0, 0.8), (-0.6, 0.0, 0.8), (0.48, -0.36, 0.8)],
    ids=["wall that faces the camera", "rising floor", "left wall", "right wall", "oblique"],
)
def test_a_plane_has_its_normal_in_every_pixel(normal: tuple[float, float, float]) -> None:
    inverse = inverse_depth_of_plane(normal, 24, 40, 50)
    assert inverse.min() > 0
    for scale in (1.0, 0.01):
        maps = normals_of(inverse * scale, 50)
        torch.testing.assert_close(maps, torch.tensor(normal)[None, :, None, None].expand(1, 3, 24, 40), atol=1e-4, rtol=0)


def test_a_flat_floor_is_up_and_the_sky_has_no_normal() -> None:
    inverse = inverse_depth_of_plane((0.0, 1.0, 0.0), 32, 32, 60).clamp(min=0)
    maps = normals_of(inverse, 60)
    assert (maps[:, :, :15] == 0).all()
    torch.testing.assert_close(maps[0, :, 17:], torch.tensor([0.0, 1.0, 0.0])[:, None, None].expand(3, 15, 32), atol=1e-4, rtol=0)


def test_a_depth_edge_tilts_neither_side() -> None:
    near, far = torch.full((1, 1, 8, 5), 1.0), torch.full((1, 1, 8, 5), 0.1)
    maps = normals_of(torch.cat([near, far], -1), 55)
    torch.testing.assert_close(maps[:, 2], torch.ones(1, 8, 10))


def test_an_affine_disparity_is_exact_where_the_ratio_is_the_assumed_one() -> None:
    inverse = inverse_depth_of_plane((0.0, 0.6, 0.8), 24, 24, 55)
    low, high = inverse.min(), inverse.max()
    labeler = NormalsFromDepth(depth=Fixed((inverse - low) / (high - low)), far_over_near=float(high / low))
    torch.testing.assert_close(labeler(pictures(2, 24, 24)), normals_of(inverse, 55).expand(2, -1, -1, -1), atol=1e-4, rtol=0)


def test_the_demo_worlds_depth_gives_its_normals() -> None:
    """Exact normals stand for pixel centres and ours for pairs of pixels: they differ on round solids and where one is a pixel wide."""
    medians, close = [], []
    for seed in range(12):
        scene = sample_scene(seed)
        exact = render(scene, 128)
        labeler = NormalsFromDepth(
            depth=Fixed(torch.from_numpy(exact.disparity01)[None, None]), fov_deg=scene.camera.fov_deg, far_over_near=None
        )
        ours, theirs = labeler(pictures(1, 128, 128))[0], torch.from_numpy(exact.normal).permute(2, 0, 1)
        has_surface = theirs.norm(dim=0) > 0.5
        assert (ours.norm(dim=0)[~has_surface] == 0).float().mean() > 0.98 if (~has_surface).any() else True
        angles = angles_deg(ours, theirs, has_surface)
        medians.append(float(angles.median()))
        close.append(float((angles < 5).float().mean()))
    assert max(medians) < 0.02
    assert min(close) > 0.95


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1)])
def test_a_picture_of_one_pixel_a_side_is_a_wall(size: tuple[int, int]) -> None:
    assert torch.equal(normals_of(torch.ones(1, 1, *size), 55)[:, 2], torch.ones(1, *size))


@pytest.mark.parametrize("options", [{"fov_deg": 180.0}, {"far_over_near": 1.0}, {"far_over_near": float("nan")}])
def test_a_lens_or_ratio_that_is_none_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(RangeError):
        NormalsFromDepth(depth=Fixed(torch.ones(1, 1, 4, 4)), **options)


def test_its_fingerprint_has_the_lens() -> None:
    fixed = Fixed(torch.ones(1, 1, 4, 4))
    assert NormalsFromDepth(depth=fixed).fingerprint() != NormalsFromDepth(depth=fixed, fov_deg=60).fingerprint()
