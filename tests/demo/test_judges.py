from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from jointnet.demo.judges.attributes import check_claims
from jointnet.demo.judges.networks import AttributeJudge, DepthRegressor, Reading
from jointnet.demo.judges.train import attribute_labels, attribute_loss, draw_softening, soften
from jointnet.demo.world.captions import caption
from jointnet.demo.world.render import render
from jointnet.demo.world.scene import COLOURS, FLOORS, SETTINGS, SHAPES, SIZES, Scene, sample_scene

SCENES = [sample_scene(s) for s in range(200)]
SIZE = 32


def normals(scenes: list[Scene]) -> torch.Tensor:
    """(N, 3, SIZE, SIZE)."""
    return torch.from_numpy(np.stack([render(scene, SIZE).normal for scene in scenes])).permute(0, 3, 1, 2)


def perfect_reading(scenes: list[Scene]) -> Reading:
    """What a judge without error reads."""
    labels = attribute_labels(scenes)

    def logits(name: str, classes: tuple[str, ...]) -> torch.Tensor:
        return 10.0 * torch.nn.functional.one_hot(labels[name].clamp(min=0), len(classes)).float()

    return Reading(
        present=20 * labels["present"] - 10,
        shape=logits("shape", SHAPES),
        size=logits("size", SIZES),
        column=labels["column"].nan_to_num(),
        nearness=labels["nearness"].nan_to_num(),
        floor=logits("floor", FLOORS),
        setting=logits("setting", SETTINGS),
        normal=avg_pool2d(normals(scenes), 4),
    )


def test_a_perfect_judge_finds_every_claim() -> None:
    checks = check_claims(perfect_reading(SCENES), [caption(s) for s in SCENES])
    kinds = {claim.kind for one in checks for claim, _ in one}
    assert kinds == {"shape", "size", "relation", "place", "count", "floor", "setting"}
    assert all(holds for one in checks for _, holds in one)


def test_claims_of_another_scene_are_mostly_not_found() -> None:
    checks = check_claims(perfect_reading(SCENES), [caption(s) for s in [*SCENES[1:], SCENES[0]]])
    assert np.mean([holds for one in checks for _, holds in one]) < 0.35


def test_a_missing_solid_fails_its_claims_alone() -> None:
    scene = next(s for s in SCENES if len(s.solids) == 2)
    lost = scene.solids[0].colour
    reading = perfect_reading([scene])
    present = reading.present.clone()
    present[0, COLOURS.index(lost)] = -10
    (checks,) = check_claims(replace(reading, present=present), [caption(scene)])
    for claim, holds in checks:
        assert holds == (lost not in (claim.subject, claim.other) and claim.kind != "count")


def test_a_perfect_reading_has_almost_no_loss() -> None:
    reading = perfect_reading(SCENES)
    labels, normal = attribute_labels(SCENES), normals(SCENES)
    assert attribute_loss(reading, labels, normal) < 0.01
    assert attribute_loss(replace(reading, column=reading.column + 0.5), labels, normal) > 1
    assert attribute_loss(replace(reading, normal=reading.normal + 0.5), labels, normal) > 1


@torch.no_grad()
def test_shapes_of_the_judges() -> None:
    images = torch.rand(2, 3, 64, 64)
    reading = AttributeJudge().eval()(images)
    assert reading.present.shape == (2, 8)
    assert reading.shape.shape == (2, 8, 4)
    assert reading.floor.shape == (2, 6)
    assert reading.normal.shape == (2, 3, 16, 16)
    depth = DepthRegressor().eval()(images)
    assert depth.shape == (2, 1, 64, 64)
    assert 0 <= depth.min() <= depth.max() <= 1


def test_softening_keeps_means_and_is_seeded() -> None:
    images = torch.rand(8, 3, 32, 32)

    def softened() -> torch.Tensor:
        draws = [draw_softening(32, torch.Generator().manual_seed(i)) for i in range(len(images))]
        return soften(images, *(torch.stack([draw[name] for draw in draws]) for name in ("noise", "blur")))

    soft = softened()
    assert (soft - images).abs().mean() > 0.005
    assert (soft.mean((2, 3)) - images.mean((2, 3))).abs().max() < 0.02
    assert torch.equal(soft, softened())


def test_captions_and_pictures_must_match() -> None:
    with pytest.raises(ValueError, match="2 captions for 1 pictures"):
        check_claims(perfect_reading(SCENES[:1]), [caption(s) for s in SCENES[:2]])
