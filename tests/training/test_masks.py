"""Random masks of the masked-input stage."""

from __future__ import annotations

import numpy as np
import torch

from jointnet.training.masks import draw_hole, draw_masks


def test_the_mix_of_masks_has_every_kind_at_its_share() -> None:
    masks = draw_masks(4000, 2, (16, 16), torch.Generator().manual_seed(0))  # (B, 2, 1, 16, 16)
    assert masks.dtype is torch.bool
    shares = masks.float().mean((2, 3, 4))
    white, black = shares == 1, shares == 0
    assert abs(float(white.all(1).float().mean()) - 0.2) < 0.03
    for known in (0, 1):
        assert abs(float((black[:, known] & white[:, 1 - known]).float().mean()) - 0.2) < 0.03
    holes = ~(white | black).any(1)
    same = (masks[:, 0] == masks[:, 1]).all(-1).all(-1).all(-1)
    assert 0.1 < float((holes & same).float().mean()) < 0.25
    assert 0.1 < float((holes & ~same).float().mean()) < 0.25
    assert 0.3 < float(masks[holes].float().mean()) < 0.7


def test_holes_are_boxes_and_strokes() -> None:
    """Of the holes of one piece half are boxes, which fill their bounds; strokes do not."""
    g = torch.Generator().manual_seed(0)
    filled = []
    for _ in range(400):
        hole = draw_hole((32, 32), g)
        rows, columns = (torch.nonzero(hole.any(axis)).flatten() for axis in (1, 0))
        bounds = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        if bounds < 32 * 32:  # not turned inside out
            filled.append(float(hole.sum() / bounds))
    share = np.mean(np.array(filled) == 1)
    assert 0.1 < share < 0.5
    assert np.mean(np.array(filled) < 0.6) > 0.1


def test_with_three_modalities_one_or_two_are_known() -> None:
    masks = draw_masks(600, 3, (8, 8), torch.Generator().manual_seed(0)).float().mean((2, 3, 4))
    known = (masks == 0).sum(1)[((masks == 0) | (masks == 1)).all(1)]
    assert set(known.tolist()) == {0, 1, 2}


def test_of_a_single_modality_nothing_is_known() -> None:
    masks = draw_masks(200, 1, (8, 8), torch.Generator().manual_seed(0))
    assert masks.shape == (200, 1, 1, 8, 8)
    assert masks.flatten(1).any(1).all()
