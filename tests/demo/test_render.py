"""The ray caster against maps of an earlier one, which was written apart from it: in numpy, a scene at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from jointnet.demo.world import render as module
from jointnet.demo.world.render import Maps, render, render_batch
from jointnet.demo.world.scene import FLOORS, SETTINGS, SHAPES, sample_scene

REFERENCE = Path(__file__).with_name("reference") / "world-16px.npz"
"""Maps at 16 px of scenes with every floor, setting and shape, by the caster of commit 305e8a2."""


def test_maps_are_those_of_the_earlier_caster() -> None:
    """Off edges and silhouettes, where float32 decides either way."""
    reference = np.load(REFERENCE)
    scenes = [sample_scene(int(seed)) for seed in reference["seeds"]]
    assert {s.floor for s in scenes} | {s.setting for s in scenes} == {*FLOORS, *SETTINGS}
    assert {solid.shape for s in scenes for solid in s.solids} == {*SHAPES}
    rendered = [render(scene, 16) for scene in scenes]
    for name, at_most in {"solid": 0, "disparity01": 1e-5, "normal": 1e-5, "rgb": 1e-4}.items():
        differs = np.abs(np.stack([getattr(maps, name) for maps in rendered]).astype(np.float64) - reference[name]) > at_most
        assert differs.mean() < 0.01, name


def test_a_batch_equals_its_scenes_however_many_are_rendered_at_once(monkeypatch) -> None:
    scenes = [sample_scene(seed) for seed in range(12)]
    alone = [vars(render_batch([scene], 32)) for scene in scenes]
    for rays in (1, 2**11, 5 * 64**2, 2**22):
        monkeypatch.setitem(module._RAYS_AT_ONCE, "cpu", rays)
        for name, value in vars(render_batch(scenes, 32)).items():
            assert torch.equal(value, torch.cat([maps[name] for maps in alone])), (rays, name)


def test_no_scenes_are_no_maps() -> None:
    maps = render_batch([], 16)
    assert isinstance(maps, Maps)
    assert maps.rgb.shape == (0, 3, 16, 16)
