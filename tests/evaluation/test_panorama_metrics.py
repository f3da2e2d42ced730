from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from jointnet.evaluation.metrics.panorama import (
    CUBE_FACES,
    cube_faces,
    discontinuity_at_columns,
    discontinuity_at_poles,
    discontinuity_at_wrap,
    intra_distance,
    omni_frechet,
    seam_score,
)
from jointnet.evaluation.metrics.rerender import move_camera, rerender_errors
from jointnet.geometry.projection import Cylindrical, Equirectangular, Pinhole


def sphere_picture(height: int = 64) -> torch.Tensor:
    """A smooth function of where a pixel looks: without a seam anywhere."""
    rays = Equirectangular(360).rays(height, 2 * height)
    x, y, z = (torch.from_numpy(rays[..., axis]) for axis in range(3))
    return torch.stack([0.5 + 0.3 * x, 0.5 + 0.3 * y * z, 0.5 + 0.2 * z]).float()


def test_a_smooth_sphere_has_no_seam_and_a_shifted_one_has() -> None:
    picture = sphere_picture()
    assert discontinuity_at_wrap(picture, constant=1e-6) == pytest.approx(1, abs=0.1)
    assert discontinuity_at_poles(picture) < 1.5
    broken = picture.clone()
    broken[..., 64:] += 0.2
    assert discontinuity_at_wrap(broken) > 3
    assert discontinuity_at_columns(broken, [64]) > 3
    assert discontinuity_at_columns(broken, [30]) < 1.2
    half_lit = picture + torch.linspace(0, 1, 128)
    assert discontinuity_at_poles(half_lit) > 2


def test_the_seam_score_by_hand() -> None:
    """Scharr's columns sum to 1: of a step by h only the two columns beside it see a gradient, h each."""
    strip = torch.zeros(1, 5, 6)
    strip[..., 3:] = 0.5
    assert seam_score(strip, constant=0.1) == pytest.approx(0.5 / 0.1)
    for wrong in (torch.zeros(1, 5, 5), torch.zeros(1, 2, 6)):
        with pytest.raises(ValueError, match="strip"):
            seam_score(wrong)


def test_intra_distance_is_the_mean_over_pairs_of_squares() -> None:
    image = torch.rand(3, 8, 34)
    squares = [image[..., 8 * i : 8 * i + 8] for i in range(4)]
    pairs = [2 * (a - b).abs().mean() for a, b in combinations(squares, 2)]
    found = intra_distance(image, lambda a, b: (a - b).abs().mean((1, 2, 3)))
    assert found == pytest.approx(float(torch.stack(pairs).mean()))
    with pytest.raises(ValueError, match="twice"):
        intra_distance(image[..., :15], lambda a, b: (a - b).mean((1, 2, 3)))


def test_cube_faces_see_the_directions_of_their_names() -> None:
    rays = Equirectangular(360).rays(128, 256)
    directions = torch.from_numpy(rays).permute(2, 0, 1).float()[None]
    views = dict(zip(CUBE_FACES, cube_faces(directions, 33), strict=True))
    expected = {"front": (0, 0, -1), "right": (1, 0, 0), "back": (0, 0, 1), "left": (-1, 0, 0), "up": (0, 1, 0), "down": (0, -1, 0)}
    for name, direction in expected.items():
        middle = views[name][0, :, 16, 16]
        assert middle.tolist() == pytest.approx(direction, abs=0.05), name
    assert views["front"][0, 0, 16].diff().min() > 0  # right is right
    assert views["front"][0, 1, :, 16].diff().max() < 0  # up is up
    assert float((views["front"][0, :, 16, -1] - views["right"][0, :, 16, 0]).abs().max()) < 0.06


def test_omni_frechet_is_the_mean_over_three_groups() -> None:
    a = {name: np.full((4, 2), float(i)) for i, name in enumerate(CUBE_FACES)}
    b = {name: np.zeros((4, 2)) for name in CUBE_FACES}

    def distance(x: np.ndarray, y: np.ndarray) -> float:
        return float(abs(x.mean() - y.mean()))

    assert omni_frechet(a, b, distance) == pytest.approx((4 + 5 + 1.5) / 3)


@pytest.mark.parametrize("projection", [Pinhole(60), Cylindrical(180)])
def test_a_camera_that_stays_sees_the_same_and_wrong_depth_is_found(projection: Pinhole | Cylindrical) -> None:
    rgb, depth = torch.rand(3, 20, 30), torch.full((20, 30), 2.0)
    still = move_camera(rgb, depth, projection, (0.0, 0.0, 0.0))
    assert rerender_errors(still, rgb, depth) == pytest.approx({"l1": 0, "seen": 1, "agrees": 1}, abs=1e-6)
    near, far = (move_camera(rgb, depth * scale, projection, (0.2, 0.0, 0.0)) for scale in (0.5, 1.0))
    assert rerender_errors(far, far.rgb)["l1"] == 0
    assert rerender_errors(near, far.rgb)["l1"] > 0.1


def test_the_nearest_point_hides_what_is_behind_it() -> None:
    rgb, depth = torch.zeros(3, 1, 40), torch.full((1, 40), 10.0)
    rgb[0], depth[0, 18:22] = 1.0, 1.0
    rgb[0, 0, 18:22], rgb[1, 0, 18:22] = 0.0, 1.0
    moved = move_camera(rgb, depth, Pinhole(60), (0.2, 0.0, 0.0))
    green = moved.rgb[1, 0].nonzero()[:, 0]
    assert len(green) == 4
    assert green.max() < 18  # what is near goes further to the left
    assert moved.depth[0, green].max() < 2
