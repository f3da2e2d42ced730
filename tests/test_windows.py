from __future__ import annotations

import pytest
import torch

from jointnet.errors import RangeError
from jointnet.windows import Windows

CANVASES = [(16, 64), (16, 50), (37, 23), (16, 16), (9, 40), (64, 16)]


@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("stride", [3, 8, 16])
def test_every_pixel_is_covered_for_every_offset(canvas: tuple[int, int], stride: int, wraps: bool) -> None:
    windows = Windows(canvas=canvas, window=16, stride=stride, decay=2, wraps=wraps)
    for offset in range(stride):
        weight = torch.zeros(canvas)
        for window in windows.at((offset, offset)):
            assert window.cut(weight).shape == windows.size
            window.add_to(weight, windows.weights())
        assert weight.min() > 0


def test_a_window_lies_within_the_canvas_unless_it_wraps() -> None:
    for offset in range(8):
        for window in Windows(canvas=(16, 50), window=16, stride=8).at((0, offset)):
            assert (window.columns.diff() == 1).all()
    wrapped = Windows(canvas=(16, 64), window=16, stride=8, wraps=True).at((0, 3))
    assert len(wrapped) == 8
    assert any((w.columns.diff() != 1).any() for w in wrapped)


def test_weights_fall_linearly_at_pixel_centres_and_only_along_cut_axes() -> None:
    weights = Windows(canvas=(64, 256), window=64, stride=32, decay=8).weights()
    assert torch.allclose(weights[5, :9], torch.tensor([0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.0]) / 8)
    assert torch.equal(weights, weights.flip(1))
    assert torch.equal(weights[0], weights[32])


def test_with_two_cut_axes_the_smaller_weight_counts() -> None:
    weights = Windows(canvas=(32, 32), window=16, stride=8, decay=4).weights()
    assert weights[0, 2] == 0.5 / 4
    assert weights[1, 0] == 0.5 / 4
    assert weights[8, 8] == 1


@pytest.mark.parametrize(("stride", "decay"), [(17, 0), (0, 0), (8, 9)])
def test_windows_that_leave_gaps_are_refused(stride: int, decay: int) -> None:
    with pytest.raises(RangeError, match="got a"):
        Windows(canvas=(16, 64), window=16, stride=stride, decay=decay)


def test_weights_may_fall_along_every_axis() -> None:
    weights = Windows(canvas=(64, 256), window=64, stride=32, decay=8, decays_everywhere=True).weights()
    assert torch.equal(weights[:, 32], weights[32])
    assert weights[0, 32] == 0.5 / 8
