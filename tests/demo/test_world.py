"""The demo world against geometry: every figure here is derived from the scene's definition, not from the renderer's own code."""

from __future__ import annotations

from itertools import pairwise
from math import cos, radians, sin, tan

import numpy as np
import pytest

from jointnet.demo.world.cache import CHUNK, WORLD_VERSION, SceneCache, render_chunk
from jointnet.demo.world.captions import caption, describe, known_words
from jointnet.demo.world.render import render
from jointnet.demo.world.scene import COLOUR_RGB, NEAR_M, Scene, Solid, sample_scene
from jointnet.demo.world.splits import SPLITS, seeds

SIZE = 96
SCENES = [sample_scene(s) for s in range(24)]
RENDERED = [render(scene, SIZE) for scene in SCENES]
PAIRS = list(zip(SCENES, RENDERED, strict=True))


def world_points(scene: Scene, disparity01: np.ndarray) -> np.ndarray:
    """Every pixel's surface point in the world frame, from its disparity and the pinhole model: (H, W, 3); nan in the sky."""
    z = np.full(disparity01.shape, np.nan)
    np.divide(NEAR_M, disparity01, out=z, where=disparity01 > 0)
    half = tan(radians(scene.camera.fov_deg) / 2)
    place = ((np.arange(SIZE) + 0.5) / SIZE * 2 - 1) * half
    x, y = np.meshgrid(place, -place)
    pitch = radians(scene.camera.pitch_deg)
    up, forward = y * z, z
    world_y = up * cos(pitch) - forward * sin(pitch) + scene.camera.height_m
    return np.stack([x * z, world_y, up * sin(pitch) + forward * cos(pitch)], -1)


def distance_to(solid: Solid, points: np.ndarray) -> np.ndarray:
    """Distance-like residual of points (N, 3) to a solid's surface, in metres, by its equation."""
    local = points - [solid.x_m, 0, solid.z_m]
    radius, height = solid.radius_m, solid.height_m
    if solid.shape == "ball":
        return np.abs(np.linalg.norm(local - [0, radius, 0], axis=1) - radius)
    across = np.hypot(local[:, 0], local[:, 2])
    if solid.shape == "cylinder":
        return np.minimum(np.abs(across - radius), np.abs(local[:, 1] - height))
    if solid.shape == "cone":
        return np.abs(across - radius * (1 - local[:, 1] / height))
    yaw = radians(solid.yaw_deg)
    a = local[:, 0] * cos(yaw) - local[:, 2] * sin(yaw)
    b = local[:, 0] * sin(yaw) + local[:, 2] * cos(yaw)
    return np.min(
        [np.abs(np.abs(a) - solid.half_extents_m[0]), np.abs(np.abs(b) - solid.half_extents_m[1]), np.abs(local[:, 1] - height)], 0
    )


def test_every_shape_is_in_these_scenes() -> None:
    assert {s.shape for scene in SCENES for s in scene.solids} == {"ball", "box", "cylinder", "cone"}


def test_points_of_a_solid_lie_on_it() -> None:
    for scene, maps in PAIRS:
        points = world_points(scene, maps.disparity01)
        for index, solid in enumerate(scene.solids):
            mine = points[maps.solid == index]
            assert len(mine) > 5
            assert distance_to(solid, mine).max() < 2e-3


def test_all_other_points_lie_on_the_floor_the_walls_or_at_infinity() -> None:
    for scene, maps in PAIRS:
        points = world_points(scene, maps.disparity01)[(maps.solid < 0) & (maps.disparity01 > 0)]
        planes = [np.abs(points[:, 1])]
        if scene.room:
            planes += [np.abs(points[:, 0] - scene.room.left_m), np.abs(points[:, 0] - scene.room.right_m)]
            planes += [np.abs(points[:, 1] - scene.room.ceiling_m), np.abs(points[:, 2] - scene.room.back_m)]
            assert (maps.disparity01 > 0).all()
        relative = np.min(planes, 0) / np.maximum(1, np.linalg.norm(points, axis=1))
        assert relative.max() < 1e-4


def test_no_surface_is_nearer_than_the_near_distance() -> None:
    assert max(maps.disparity01.max() for maps in RENDERED) <= 1
    assert min(maps.disparity01.min() for maps in RENDERED) >= 0


def test_no_floor_in_sight_is_nearer_than_the_near_distance() -> None:
    """The lowest ray drops by sin(pitch) + cos(pitch) tan(fov / 2) a metre of depth."""
    for scene in (sample_scene(s) for s in (*range(300), 20000196, 20000261, 20000493)):
        pitch, half = radians(scene.camera.pitch_deg), radians(scene.camera.fov_deg) / 2
        assert scene.camera.height_m / (sin(pitch) + cos(pitch) * tan(half)) > NEAR_M * (1 - 1e-9)


def test_normals_are_unit_face_the_camera_and_vanish_in_the_sky() -> None:
    for scene, maps in PAIRS:
        length = np.linalg.norm(maps.normal, axis=-1)
        there = maps.disparity01 > 0
        assert np.allclose(length[there], 1, atol=1e-4)
        assert (length[~there] == 0).all()
        half = tan(radians(scene.camera.fov_deg) / 2)
        place = ((np.arange(SIZE) + 0.5) / SIZE * 2 - 1) * half
        x, y = np.meshgrid(place, -place)
        towards_camera = np.stack([-x, -y, np.ones_like(x)], -1)
        assert ((maps.normal * towards_camera).sum(-1)[there] > -1e-4).all()


def test_normals_are_those_of_the_depth_map() -> None:
    """On curved solids too: compare with the cross product of finite differences of the unprojected points."""
    for scene, maps in PAIRS:
        half = tan(radians(scene.camera.fov_deg) / 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = NEAR_M / maps.disparity01.astype(np.float64)
            place = ((np.arange(SIZE) + 0.5) / SIZE * 2 - 1) * half
            x, y = np.meshgrid(place, -place)
            camera = np.stack([x * z, y * z, -z], -1)
            right, down = camera[1:-1, 2:] - camera[1:-1, :-2], camera[2:, 1:-1] - camera[:-2, 1:-1]
            normal = np.cross(down, right)
            normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        inner = maps.normal[1:-1, 1:-1]
        neighbours = [maps.normal[1:-1, 2:], maps.normal[1:-1, :-2], maps.normal[2:, 1:-1], maps.normal[:-2, 1:-1]]
        smooth = np.min([(inner * n).sum(-1) for n in neighbours], 0) > 0.98
        agreement = (inner * normal).sum(-1)[smooth & np.isfinite(normal).all(-1)]
        assert np.median(agreement) > 0.9999
        assert np.quantile(agreement, 0.05) > 0.98


def test_the_same_seed_gives_the_same_picture_and_another_another() -> None:
    again = render(sample_scene(5), SIZE)
    assert np.array_equal(again.rgb, RENDERED[5].rgb)
    assert np.array_equal(again.disparity01, RENDERED[5].disparity01)
    assert not np.array_equal(RENDERED[6].rgb, RENDERED[5].rgb)


def test_the_splits_never_meet() -> None:
    ranges = list(SPLITS.values())
    assert all(a.stop <= b.start for a, b in pairwise(ranges))
    assert seeds("validation", 3, 2) == range(10_000_002, 10_000_005)
    with pytest.raises(ValueError, match="train, validation, test"):
        seeds("dev", 1)


def test_solids_differ_in_colour_and_can_be_seen() -> None:
    for seed in range(300):
        scene = sample_scene(seed)
        assert len({s.colour for s in scene.solids}) == len(scene.solids)
    for scene, maps in PAIRS:
        for index in range(len(scene.solids)):
            assert (maps.solid == index).sum() >= 6


def test_a_lit_solid_has_its_colour() -> None:
    """The mean hue of each brightly lit solid is nearest its own colour's."""
    right = total = 0
    for scene, maps in PAIRS:
        if scene.setting in ("sunset", "night"):
            continue
        for index, solid in enumerate(scene.solids):
            mean = maps.rgb[maps.solid == index].mean(0)
            unit = mean / np.linalg.norm(mean)
            nearest = max(COLOUR_RGB, key=lambda c: float(unit @ (np.array(COLOUR_RGB[c]) / np.linalg.norm(COLOUR_RGB[c]))))
            right += nearest == solid.colour or {nearest, solid.colour} <= {"white", "black"}
            total += 1
    assert right >= 0.85 * total


def test_captions_hold_every_solid_once_and_only_known_words() -> None:
    for seed in range(300):
        scene = sample_scene(seed)
        for draw in range(3):
            text = describe(scene, draw)
            for solid in scene.solids:
                assert text.split().count(solid.colour) + text.replace(",", " ").split().count(solid.colour) >= 1
                assert f"{solid.colour} {solid.shape}" in text
            assert set(text.replace(",", " ").split()) <= known_words()


def test_claims_are_true_of_the_scene() -> None:
    for seed in range(300):
        scene = sample_scene(seed)
        by_colour = {s.colour: s for s in scene.solids}
        for claim in caption(scene).claims:
            subject, other = by_colour.get(claim.subject), by_colour.get(claim.other)
            if claim.kind == "relation":
                column = scene.column(subject) - scene.column(other)
                further = subject.z_m - other.z_m
                assert {"left of": -column, "right of": column, "behind": further, "in front of": -further}[claim.value] > 0.2
            elif claim.kind == "place":
                column = scene.column(subject)
                assert {"left": column < -0.3, "right": column > 0.3, "middle": abs(column) < 0.25}[claim.value]
            elif claim.kind in ("shape", "size"):
                assert getattr(subject, claim.kind) == claim.value
            else:
                assert claim.value == {"count": str(len(scene.solids)), "floor": scene.floor, "setting": scene.setting}[claim.kind]


def test_the_picture_is_not_a_function_of_the_caption() -> None:
    """Scenes with the same settings differ in camera, light and place: their depth maps do, too."""
    floors = [m.disparity01[-1].mean() for m in RENDERED]
    assert np.std(floors) > 0.05
    assert len({s.camera for s in SCENES}) == len(SCENES)


def test_some_solids_hide_parts_of_others() -> None:
    hidden = 0
    for seed in range(40, 100):
        scene = sample_scene(seed)
        if len(scene.solids) < 2:
            continue
        whole = render(scene, 48).solid
        for index, solid in enumerate(scene.solids):
            alone = render(Scene(**{**vars(scene), "solids": (solid,)}), 48).solid
            hidden += int((alone == 0).sum()) > int((whole == index).sum()) * 1.1
    assert hidden >= 5


def test_a_cached_scene_is_the_rendered_one(tmp_path) -> None:
    folder = render_chunk(tmp_path / f"train-32px-world{WORLD_VERSION}-{0:08d}", 0, 3, 32)
    maps = render(sample_scene(2), 32)
    assert np.abs(np.load(folder / "rgb.npy")[2] / 255 - maps.rgb).max() <= 0.5 / 255 + 1e-6
    assert np.abs(np.load(folder / "disparity.npy")[2] / 65535 - maps.disparity01).max() <= 0.5 / 65535 + 1e-6
    assert not list(tmp_path.glob(".*"))
    cache = SceneCache(tmp_path, "train", CHUNK, 32)
    assert len(cache.chunks("normal")[0]) == 3
