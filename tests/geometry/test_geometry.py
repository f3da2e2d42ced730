"""Projections and meshes against the exact depth of the demo world, by a ray caster that knows nothing of either."""

from __future__ import annotations

from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from jointnet.demo.world.render import depth_along, render
from jointnet.demo.world.scene import NEAR_M, sample_scene
from jointnet.errors import OutputError, RangeError, ShapeError
from jointnet.geometry.depth import depth_from_disparity
from jointnet.geometry.files import write_mesh
from jointnet.geometry.mesh import Mesh, build_mesh, depth_edges
from jointnet.geometry.projection import Cylindrical, Equirectangular, Pinhole, Projection, get_projection
from jointnet.geometry.warp import place_disparity, place_photo

LENSES = [Pinhole(55), Cylindrical(180), Cylindrical(360), Equirectangular(120), Equirectangular(360)]
FAR_M = 60.0


def size_of(lens: Projection) -> tuple[int, int]:
    return (96, 96) if isinstance(lens, Pinhole) else (64, 256)


def exact_depth(lens: Projection, seed: int) -> np.ndarray:
    """Depth of a demo scene through a lens, the sky at FAR_M."""
    return np.minimum(depth_along(sample_scene(seed), lens.rays(*size_of(lens))), FAR_M).astype(np.float64)


def grey(lens: Projection) -> np.ndarray:
    return np.full((*size_of(lens), 3), 128, np.uint8)


def first_hits(mesh: Mesh, rays: np.ndarray) -> np.ndarray:
    """Distance along rays (R, 3) to the first triangle (Moeller & Trumbore, 1997), inf where there is none; every pair is tried."""
    a, b, c = (mesh.points[mesh.faces[:, i]] for i in range(3))
    e1, e2 = b - a, c - a
    nearest = np.full(len(rays), inf)
    for i, ray in enumerate(rays):
        p = np.cross(ray, e2)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1 / (e1 * p).sum(-1)
            u = -(a * p).sum(-1) * inverse
            q = np.cross(-a, e1)
            v = (q @ ray) * inverse
            t = (e2 * q).sum(-1) * inverse
            hit = (u >= -1e-9) & (v >= -1e-9) & (u + v <= 1 + 1e-9) & (t > 0)
        nearest[i] = np.where(hit, t, inf).min(initial=inf)
    return nearest


@pytest.mark.parametrize("lens", LENSES)
def test_pixels_and_rays_are_inverse(lens: Projection) -> None:
    height, width = size_of(lens)
    depth = np.random.default_rng(0).uniform(1, 9, (height, width))
    pixels, again = lens.pixels(lens.rays(height, width) * depth[..., None], height, width)
    assert np.allclose(again, depth)
    assert np.allclose(pixels, np.stack(np.mgrid[:height, :width], -1), atol=1e-6)


@pytest.mark.parametrize("lens", LENSES)
def test_pixels_are_square_at_the_horizon(lens: Projection) -> None:
    rays = lens.rays(65, 257)
    unit = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    across = np.arccos(unit[32, 128] @ unit[32, 129])
    down = np.arccos(unit[32, 128] @ unit[33, 128])
    assert np.isclose(across, down, rtol=1e-3)


def test_a_pinholes_rays_are_the_demo_cameras() -> None:
    scene = sample_scene(3)
    disparity = render(scene, 96).disparity01
    depth = depth_along(scene, Pinhole(scene.camera.fov_deg).rays(96, 96))
    assert np.allclose(NEAR_M / depth, disparity, atol=1e-5)


@pytest.mark.parametrize("seed", [1, 4])
@pytest.mark.parametrize("lens", LENSES)
def test_a_mesh_seen_from_the_camera_has_the_depth_it_came_from(lens: Projection, seed: int) -> None:
    """Rays between the pixels, against the exact depth there."""
    depth = exact_depth(lens, seed)
    mesh = build_mesh(grey(lens), depth, lens)
    rng = np.random.default_rng(0)
    height, width = size_of(lens)
    rays = lens.rays(4 * height, 4 * width).reshape(-1, 3)
    rays = rays[rng.choice(len(rays), 250, replace=False)]
    truth = np.minimum(depth_along(sample_scene(seed), rays), FAR_M)
    seen = first_hits(mesh, rays)
    found = np.isfinite(seen)
    assert found.mean() > 0.85
    assert np.median(np.abs(seen[found] / truth[found] - 1)) <= 0.01


def test_triangles_face_the_camera_and_carry_unit_normals() -> None:
    for lens in LENSES:
        mesh = build_mesh(grey(lens), exact_depth(lens, 1), lens)
        a, b, c = (mesh.points[mesh.faces[:, i]] for i in range(3))
        assert ((np.cross(b - a, c - a) * -(a + b + c)).sum(-1) > 0).all()
        assert np.allclose(np.linalg.norm(mesh.normals, axis=-1), 1)
        assert ((mesh.normals * mesh.points).sum(-1) <= 0).all()


def test_normals_are_those_of_the_scene() -> None:
    scene = sample_scene(4)
    lens = Pinhole(scene.camera.fov_deg)
    rendered = render(scene, 96)
    depth = np.minimum(depth_along(scene, lens.rays(96, 96)), FAR_M)
    made = build_mesh(np.zeros((96, 96, 3), np.uint8), depth, lens).normals.reshape(96, 96, 3)
    surface = rendered.disparity01 > 0
    angle = np.degrees(np.arccos((made * rendered.normal).sum(-1).clip(-1, 1)))[surface]
    assert np.median(angle) < 2


def test_depth_edges_are_cut_and_slanted_planes_are_not() -> None:
    y, _ = np.mgrid[:64, :64].astype(float)
    plane = 0.002 + 0.01 * y  # disparity of a floor up to the horizon
    assert not depth_edges(plane, 0, 0.05).any()
    step = np.where(np.arange(64) < 32, 0.2, 0.6)[None].repeat(64, 0)
    edges = depth_edges(step, 1, 0.05)
    assert edges[:, 31].all()
    assert edges.sum() == 64
    blurred = np.convolve(step[0], np.ones(3) / 3, "same")[None, 1:-1].repeat(8, 0)
    assert depth_edges(blurred, 1, 0.05)[:, 29:32].any()
    strip = np.array([[1.0, 0.1, 0.1, 0.1, 0.1, 0.1, 1.0]]).repeat(4, 0)
    assert depth_edges(strip, 1, 0.05)[:, [0, -1]].all()
    assert depth_edges(strip[:2].T, 0, 0.05)[[0, -1]].all()
    large = torch.nn.functional.interpolate(torch.from_numpy(step)[None, None], scale_factor=8, mode="bilinear")[0, 0].numpy()
    assert depth_edges(large, 1, 0.05)[:, 250:262].any(1).all()


def test_no_triangle_spans_an_object_and_what_is_behind_it() -> None:
    lens = Pinhole(55)
    depth = np.full((32, 32), 10.0)
    depth[8:20, 8:20] = 2.0
    picture = np.zeros((32, 32, 3), np.uint8)
    mesh = build_mesh(picture, depth, lens)
    z = -mesh.points[..., 2][mesh.faces]
    assert np.allclose(z.min(1), z.max(1))
    rubber = build_mesh(picture, depth, lens, edge_threshold=inf)
    assert len(rubber.faces) == 2 * 31 * 31
    assert len(mesh.faces) < len(rubber.faces)


def test_the_seam_is_closed_only_when_it_wraps() -> None:
    for lens, quads in ((Cylindrical(360), 256), (Cylindrical(180), 255), (Equirectangular(360), 256), (Equirectangular(359), 255)):
        mesh = build_mesh(grey(lens), np.full(size_of(lens), 3.0), lens)
        assert len(mesh.faces) == 2 * quads * 63
        assert mesh.uv.max() <= 1 + 0.5 / 256


@pytest.mark.parametrize("kind", ["affine", "scaled"])
def test_disparity_to_depth(kind: str) -> None:
    disparity = np.array([1.0, 0.5, 0.25, 0.0, 1.3, -0.1])
    depth = depth_from_disparity(disparity, 1.5, 100.0, kind)
    assert np.isclose(depth[0], 1.5)
    assert np.isclose(depth[3], 100)
    assert depth[4] == depth[0]
    assert depth[5] == depth[3]
    assert np.isclose(depth[1], 3.0 if kind == "scaled" else 1 / (0.5 / 1.5 + 0.5 / 100))


def test_bad_geometry_is_refused(tmp_path: Path) -> None:
    picture, depth = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8))
    with pytest.raises(RangeError, match="span"):
        get_projection("cylindrical", 361)
    with pytest.raises(RangeError, match="poles"):
        build_mesh(np.zeros((8, 8, 3), np.uint8), depth, Equirectangular(360))
    with pytest.raises(RangeError, match="near"):
        depth_from_disparity(depth, 5, 1)
    with pytest.raises(ShapeError, match="one size"):
        build_mesh(picture, np.ones((8, 9)), Pinhole(55))
    with pytest.raises(OutputError, match=r"\.glb or \.ply"):
        write_mesh(build_mesh(picture, depth, Pinhole(55)), tmp_path / "x.obj")


def test_files_hold_the_mesh(tmp_path: Path) -> None:
    lens = Cylindrical(360)
    picture = np.random.default_rng(0).integers(0, 256, (*size_of(lens), 3), np.uint8)
    mesh = build_mesh(picture, exact_depth(lens, 1), lens)
    (loaded,) = trimesh.load(write_mesh(mesh, tmp_path / "scene.glb"), process=False).geometry.values()
    assert len(loaded.faces) == len(mesh.faces)
    assert np.allclose(loaded.triangles, mesh.points[mesh.faces], atol=1e-4)
    texture = np.asarray(loaded.visual.material.baseColorTexture.convert("RGB"))
    assert np.array_equal(texture, picture)
    used = np.unique(mesh.faces)
    row, column = used // (picture.shape[1] + 1), used % (picture.shape[1] + 1)  # the first column is there twice
    u, v = loaded.visual.uv.T
    at = (np.floor((1 - v) * picture.shape[0]).astype(int), np.floor(u * picture.shape[1]).astype(int) % picture.shape[1])
    assert np.array_equal(texture[at], picture[row, column % picture.shape[1]])
    assert np.allclose(loaded.vertex_normals, mesh.normals[used], atol=1e-4)
    cloud = trimesh.load(write_mesh(mesh, tmp_path / "cloud.ply"), process=False)
    assert cloud.vertices.shape == (64 * 256, 3)
    header = (tmp_path / "cloud.ply").read_bytes().partition(b"end_header")[0]
    assert b"property float nx" in header
    assert np.array_equal(np.asarray(cloud.colors)[:, :3].reshape(picture.shape), picture)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cloud.ply", "scene.glb"]


def test_a_photo_lies_where_its_rays_point() -> None:
    """A photo of directions keeps them on the canvas."""
    lens, canvas_lens = Pinhole(60), Cylindrical(180)
    rays = lens.rays(90, 120)
    unit = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    photo = torch.from_numpy((unit + 1) / 2).permute(2, 0, 1)[None].float()
    canvas, known = place_photo(photo, 60, canvas_lens, 180, (128, 512))
    inside = known[0, 0] > 0.5
    target = canvas_lens.rays(128, 512)
    target = (target / np.linalg.norm(target, axis=-1, keepdims=True) + 1) / 2
    error = np.abs(canvas[0].permute(1, 2, 0).numpy() - target)[inside.numpy()]
    assert np.quantile(error, 0.99) < 0.01
    width = inside[64].sum().item()
    assert abs(width - 60 / 180 * 512) <= 5
    border = torch.cat([photo[..., 0, :], photo[..., -1, :]], -1)
    assert canvas[0, :, ~inside].min() >= min(border.min(), photo.min())


@pytest.mark.parametrize("canvas_lens", [Cylindrical(180), Equirectangular(180)])
def test_a_photos_disparity_keeps_its_points_on_the_canvas(canvas_lens: Projection) -> None:
    """A wall across the view, 3 m away: every pixel of the canvas that shows it has its point on the wall."""
    near_m, wall_m = 1.5, 3.0
    disparity = torch.full((1, 1, 90, 120), near_m / wall_m)
    canvas = place_disparity(disparity, 60, canvas_lens, 180, (64, 256))
    _, known = place_photo(disparity, 60, canvas_lens, 180, (64, 256))
    depth_m = near_m / canvas[0, 0].double().numpy().clip(1e-6)
    points = canvas_lens.rays(64, 256) * depth_m[..., None]
    assert np.allclose(points[known[0, 0].numpy() > 0.5][:, 2], -wall_m, rtol=1e-4)
