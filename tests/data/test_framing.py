"""Which part of a picture is trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jointnet.data.framing import bucket_sizes, choose_buckets, largest_frame


@pytest.mark.parametrize("original", [(30, 50), (50, 30), (7, 7), (64, 65)])
@pytest.mark.parametrize("size", [(16, 16), (8, 16), (24, 8)])
def test_the_largest_rectangle_of_a_ratio_lies_in_the_picture(original: tuple[int, int], size: tuple[int, int]) -> None:
    for generator in (None, torch.Generator().manual_seed(0)):
        frame = largest_frame(original, size, generator)
        for corner, extent, side in zip(frame.corner, frame.extent, original, strict=True):
            assert 0 <= corner <= side - extent
        assert any(extent == side for extent, side in zip(frame.extent, original, strict=True))
        assert frame.extent[0] / frame.extent[1] == pytest.approx(size[0] / size[1], rel=0.2)
        assert frame.cut("rgb", torch.rand(3, *original)).shape == (3, *size)


def test_random_frames_reach_both_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    lefts = {largest_frame((10, 20), (8, 8), generator).corner[1] for _ in range(300)}
    assert lefts == set(range(11))


def test_buckets_have_about_the_area_and_sides_that_are_multiples() -> None:
    sizes = bucket_sizes(512, 64)
    assert (512, 512) in sizes
    assert all(height % 64 == width % 64 == 0 and 0.8 <= height * width / 512**2 <= 1 for height, width in sizes)
    ratios = [height / width for height, width in sizes]
    assert min(ratios) < 0.65 < 1.5 < max(ratios)


def test_pictures_go_to_the_nearest_ratio_and_small_buckets_give_theirs_away() -> None:
    sizes = [(8, 16), (16, 16), (16, 8)]
    originals = np.array([[100, 200]] * 5 + [[100, 90]] * 6 + [[300, 150]])
    rows = choose_buckets(originals, sizes, batch_size=1)
    assert [len(of) for of in rows] == [5, 6, 1]
    rows = choose_buckets(originals, sizes, batch_size=4)
    assert [of.tolist() for of in rows] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11], []]
    assert sum(len(of) for of in choose_buckets(originals, sizes, batch_size=100)) == 12
