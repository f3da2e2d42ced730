from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jointnet.errors import EightBitWarning, InputFileError, RangeError, ShapeError
from jointnet.modalities import picture_files
from jointnet.modalities.read import as_maps, as_masks, read_map, read_mask, read_picture

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (6, 8, 3), np.uint8)
EXIF_ORIENTATION = 0x0112


def test_an_8_bit_picture_is_exact(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png")[0].permute(1, 2, 0).numpy() * 255, COLOURS)


def test_alpha_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.dstack([COLOURS, np.zeros((6, 8), np.uint8)])
    rgba[0, 0, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")[0]
    assert (picture[:, 1:] == 1).all()
    assert np.allclose(picture[:, 0, 0].numpy() * 255, COLOURS[0, 0])


def test_a_palette_with_transparency_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "a.png", transparency=0)
    assert (read_picture(tmp_path / "a.png") == 1).all()


def test_16_bit_greyscale_keeps_its_tones(tmp_path: Path) -> None:
    values = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1300
    Image.fromarray(values).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")[0]
    assert np.allclose(picture.numpy(), values[None] / 65535, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "CMYK"])
def test_other_modes_become_rgb(mode: str, tmp_path: Path) -> None:
    suffix = "tiff" if mode == "CMYK" else "png"
    Image.fromarray(COLOURS).convert(mode).save(tmp_path / f"a.{suffix}")
    picture = read_picture(tmp_path / f"a.{suffix}")
    assert picture.shape == (1, 3, 6, 8)
    if mode == "CMYK":
        assert np.abs(picture[0].permute(1, 2, 0).numpy() * 255 - COLOURS).max() <= 1


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "a.png")[0].permute(1, 2, 0).numpy() * 255, np.rot90(COLOURS, -1))


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    monkeypatch.setattr(picture_files, "MAX_PIXELS", 47)
    with pytest.raises(InputFileError, match=r"8 x 6, more pixels than the limit"):
        read_picture(tmp_path / "a.png")


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(InputFileError, match=r"a\.png"):
        read_picture(tmp_path / "a.png")
    with pytest.raises(InputFileError, match=r"missing\.png"):
        read_picture(tmp_path / "missing.png")
    Image.fromarray(COLOURS).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-40])
    with pytest.raises(InputFileError, match=r"cut\.png"):
        read_picture(tmp_path / "cut.png")


def test_depth_files(tmp_path: Path) -> None:
    depth = RNG.random((6, 8)).astype(np.float32)
    np.save(tmp_path / "d.npy", depth)
    assert np.array_equal(read_map(tmp_path / "d.npy", "depth")[0, 0].numpy(), depth)
    Image.fromarray(np.round(depth * 65535).astype(np.uint16)).save(tmp_path / "d.png")
    assert np.abs(read_map(tmp_path / "d.png", "depth")[0, 0].numpy() - depth).max() <= 0.5 / 65535 + 1e-7
    Image.fromarray(np.round(depth * 255).astype(np.uint8)).save(tmp_path / "d8.png")
    with pytest.warns(EightBitWarning, match=r"d8\.png has 8 bits"):
        eight = read_map(tmp_path / "d8.png", "depth")
    assert np.abs(eight[0, 0].numpy() - depth).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 8), np.float32), "empty"),
        (np.full((6, 8), 0.3, np.float32), "constant"),
        (np.zeros((6, 8), np.float32), "all invalid"),
        (np.where(np.eye(6) > 0, np.nan, 0.5), "6 values that are NaN or infinite"),
        (np.where(np.eye(6) > 0, np.inf, 0.5), "NaN or infinite"),
    ],
)
def test_depth_that_says_nothing_is_refused(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", array)
    with pytest.raises(InputFileError, match=message):
        read_map(tmp_path / "d.npy", "depth")


def test_depth_of_another_form_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "metres.npy", RNG.random((6, 8)) * 20)
    with pytest.raises(RangeError, match="scale it"):
        read_map(tmp_path / "metres.npy", "depth")
    np.save(tmp_path / "colours.npy", RNG.random((6, 8, 3)))
    with pytest.raises(ShapeError, match="colours"):
        read_map(tmp_path / "colours.npy", "depth")
    Image.fromarray(COLOURS).save(tmp_path / "preview.png")
    with pytest.raises(ShapeError, match="colour picture"):
        read_map(tmp_path / "preview.png", "depth")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(InputFileError, match="numpy array"):
        read_map(tmp_path / "objects.npy", "depth")


def test_normals_come_back(tmp_path: Path) -> None:
    normals = RNG.normal(size=(6, 8, 3)).astype(np.float32)
    normals[..., 2] = np.abs(normals[..., 2])
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    Image.fromarray(np.round((normals + 1) / 2 * 255).astype(np.uint8)).save(tmp_path / "n.png")
    assert np.abs(read_map(tmp_path / "n.png", "normal")[0].permute(1, 2, 0).numpy() - normals).max() <= 1 / 255


def test_masks_are_cut_at_one_half(tmp_path: Path) -> None:
    grey = np.array([[0, 100, 127, 128, 255]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[[[0, 0, 0, 1, 1]]]]
    assert read_mask(tmp_path / "m.png").dtype == torch.bool
    sixteen = grey.astype(np.uint16) * 257
    Image.fromarray(sixteen).save(tmp_path / "m16.png")
    assert read_mask(tmp_path / "m16.png").tolist() == [[[[0, 0, 0, 1, 1]]]]
    wide = torch.where(torch.from_numpy(grey) > 127, 255, 0)
    assert wide.dtype == torch.int64
    for value in (wide, wide.int(), wide * 257, wide.numpy()):
        assert as_masks(value).tolist() == [[[[0, 0, 0, 1, 1]]]]
    with pytest.raises(RangeError, match="up to 1e\\+06; expected 0 and 1, 255 or 65535"):
        as_masks(wide + 10**6 - 255)
    ones = (grey > 127).astype(np.uint8)
    for value in (grey, torch.from_numpy(grey / 255.0), grey > 127, sixteen, ones, torch.from_numpy(ones)):
        assert as_masks(value).tolist() == [[[[0, 0, 0, 1, 1]]]]


def test_masks_are_turned_as_pictures_are_and_transparent_pixels_are_asked(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    Image.fromarray(COLOURS[..., 0]).save(tmp_path / "m.png", exif=exif)
    assert read_mask(tmp_path / "m.png").shape == (1, 1, 8, 6)
    rgba = np.dstack([COLOURS, np.full((6, 8), 255, np.uint8)])
    rgba[:2, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "t.png")
    assert read_mask(tmp_path / "t.png")[0, 0, :, 0].tolist() == [1, 1, 0, 0, 0, 0]


def test_forms_of_a_map_agree() -> None:
    depth = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    arrays = depth[:, 0].numpy()
    assert torch.equal(as_maps("depth", arrays), depth)
    assert torch.equal(as_maps("depth", arrays[..., None]), depth)
    assert torch.equal(as_maps("depth", list(arrays)), depth)
    assert torch.equal(as_maps("depth", depth[0]), depth[:1])
    with pytest.raises(ShapeError, match="one size"):
        as_maps("depth", [arrays[0], arrays[1][:2]])
    with pytest.raises(ShapeError, match="rgb"):
        as_maps("rgb", arrays)


def test_a_grey_map_in_colour_is_read_and_a_coloured_one_refused(tmp_path: Path) -> None:
    grey = np.repeat(COLOURS[..., :1], 3, 2)
    for name, pixels in {"grey": grey, "coloured": COLOURS}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    with pytest.warns(EightBitWarning):
        assert torch.equal(read_map(tmp_path / "grey.png", "depth"), as_maps("depth", COLOURS[..., 0]))
    assert torch.equal(as_maps("depth", Image.fromarray(grey)), as_maps("depth", COLOURS[..., 0]))
    with pytest.raises(ShapeError, match="colour picture"):
        as_maps("depth", Image.fromarray(COLOURS))
    with pytest.raises(ShapeError, match=r"coloured.png': got a colour picture"):
        read_map(tmp_path / "coloured.png", "depth")


def test_colours_of_other_spaces_are_read(tmp_path: Path) -> None:
    Image.new("LAB", (4, 4), (255, 128, 128)).save(tmp_path / "white.tiff")
    for read in (read_mask, read_picture):
        assert (read(tmp_path / "white.tiff") > 0.98).all()


def test_wide_integers_are_refused_and_integer_tensors_are_shares() -> None:
    with pytest.raises(RangeError, match="int32"):
        as_maps("depth", np.linspace(0, 65535, 20).reshape(4, 5).astype(np.int32))
    eight = torch.from_numpy(COLOURS).permute(2, 0, 1)
    assert torch.equal(as_maps("rgb", eight), as_maps("rgb", COLOURS))


def test_a_float_picture_keeps_its_values(tmp_path: Path) -> None:
    values = RNG.random((4, 5), np.float32)
    Image.fromarray(values).save(tmp_path / "f.tiff")
    assert np.array_equal(read_picture(tmp_path / "f.tiff")[0, 1].numpy(), values)


def test_an_archive_is_not_an_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", depth=np.zeros((4, 5)))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(InputFileError, match="archive"):
        read_map(tmp_path / "a.npy", "depth")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_mask_with_an_alpha_channel_that_hides_nothing_is_read_by_its_colours(mode: str, tmp_path: Path) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 2:5] = 255
    Image.fromarray(mask).convert(mode).save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png")[0, 0].numpy() * 255, mask)


def test_byte_orders_and_precisions_of_other_machines_are_read(tmp_path: Path) -> None:
    values = (np.arange(48).reshape(6, 8) * 1300).astype(">u2")
    Image.frombytes("I;16B", (8, 6), values.tobytes()).save(tmp_path / "big.tif")
    assert np.allclose(read_map(tmp_path / "big.tif", "depth")[0, 0].numpy(), values / 65535, atol=1e-6)
    assert np.allclose(read_picture(tmp_path / "big.tif")[0, 0].numpy(), values / 65535, atol=1e-6)
    assert np.array_equal(read_mask(tmp_path / "big.tif")[0, 0].numpy(), values >= 32768)
    for kind in (">f4", "longdouble", ">u2"):
        stored = values.astype(kind) if kind == ">u2" else (values / 65535).astype(kind)
        np.save(tmp_path / "a.npy", stored)
        assert np.allclose(read_map(tmp_path / "a.npy", "depth")[0, 0].numpy(), values / 65535, atol=1e-6)


def test_broken_arrays_are_named(tmp_path: Path) -> None:
    (tmp_path / "zip.npy").write_bytes(b"PK\x03\x04 broken")
    with (tmp_path / "huge.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**7, 10**7)})
    for name in ("zip.npy", "huge.npy"):
        with pytest.raises(InputFileError, match="cannot read"):
            read_map(tmp_path / name, "depth")


def test_values_of_wide_pictures_are_not_cut_in_silence(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 255, 48, dtype=np.float32).reshape(6, 8)).save(tmp_path / "float.tif")
    Image.fromarray(np.linspace(0, 200_000, 48).astype(np.int32).reshape(6, 8)).save(tmp_path / "int.tif")
    with pytest.raises(RangeError, match="scale it"):
        read_picture(tmp_path / "float.tif")
    for read in (read_picture, lambda path: read_map(path, "depth")):
        with pytest.raises(RangeError, match="0 to 65535"):
            read(tmp_path / "int.tif")


def test_a_few_outliers_of_a_decoder_are_taken_and_another_unit_is_not() -> None:
    disparity = torch.rand(1, 1, 40, 40)
    disparity[..., 0, :3] = 1.7
    assert torch.equal(as_maps("depth", disparity), disparity)
    for wrong, message in ((disparity * 80, "got depth from"), (disparity.masked_fill(disparity > 1.6, torch.nan), "NaN")):
        with pytest.raises(RangeError, match=message):
            as_maps("depth", wrong)


def test_a_broken_exif_block_is_named(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=b"Exif\x00\x00nonsense of sixteen")
    with pytest.raises(InputFileError, match=r"a\.png"):
        read_picture(tmp_path / "a.png")


def test_masks_of_floats_and_of_32_bits_keep_their_meaning(tmp_path: Path) -> None:
    asked = np.zeros((6, 8), np.float32)
    asked[:3] = 1
    for name, values in (("f.tiff", asked), ("i.tiff", (asked * 65535).astype(np.int32)), ("one.tiff", asked.astype(np.int32))):
        Image.fromarray(values).save(tmp_path / name)
        assert np.array_equal(read_mask(tmp_path / name)[0, 0].numpy(), asked)
    Image.fromarray((asked * 1e6).astype(np.int32)).save(tmp_path / "wide.tiff")
    with pytest.raises(RangeError, match=r"wide\.tiff.*expected 0 and 1, 255 or 65535"):
        read_mask(tmp_path / "wide.tiff")
    with pytest.raises(ShapeError, match="one size for a batch"):
        as_masks([torch.zeros(1, 4, 4), torch.zeros(1, 4, 5)])
