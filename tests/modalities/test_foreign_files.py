"""Files as other programs write them: read by what they mean, or refused by name; never misread."""

from __future__ import annotations

import struct
import sys
import warnings
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch.nn.functional import normalize

from jointnet.errors import ColourProfileWarning, EightBitWarning, InputFileError, MissingPackageError, RangeError, ShapeError
from jointnet.modalities import Modality, picture_files
from jointnet.modalities.inputs import map_tensor
from jointnet.modalities.read import as_maps, as_masks, read_map, read_mask, read_picture

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (6, 8, 3), np.uint8)
DEPTH = (np.add.outer(np.arange(40), np.arange(50)) / 90).astype(np.float32)
"""A plane, 0 to 0.98."""


def facing(height: int = 40, width: int = 50) -> np.ndarray:
    """Unit normals of a rough wall, (H, W, 3)."""
    normals = RNG.normal(size=(height, width, 3)).astype(np.float32)
    normals[..., 2] = 1 + np.abs(normals[..., 2])
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(path: Path, kind: bytes, body: bytes, *, at_end: bool = False) -> None:
    """Put a chunk into a PNG, before its pixels or after them."""
    content = path.read_bytes()
    place = content.rindex(b"IEND") - 4 if at_end else content.index(b"IDAT") - 4
    path.write_bytes(content[:place] + chunk(kind, body) + content[place:])


# Outliers (K11)


@pytest.mark.parametrize("mark", [65535.0, 1e10, -1.5, 2.5])
def test_marks_among_the_values_are_refused(mark: float, tmp_path: Path) -> None:
    depth = DEPTH.copy()
    depth[0, :5] = mark
    np.save(tmp_path / "d.npy", depth)
    with pytest.raises(RangeError, match=r"d\.npy.*5 values are marks rather than outliers; put a value of the range there, such as 0"):
        read_map(tmp_path / "d.npy", "depth")
    normals = facing()
    normals[0, 0] = mark * 3
    with pytest.raises(RangeError, match="marks rather than outliers"):
        as_maps("normal", normals)


def test_one_bad_map_is_not_hidden_by_a_batch() -> None:
    batch = torch.from_numpy(DEPTH).repeat(200, 1, 1)[:, None]
    batch[7] *= 1.9
    with pytest.raises(RangeError, match=r"got depth from 0 to 1\.8"):
        as_maps("depth", batch)


def test_transparent_pixels_of_maps_have_no_value(tmp_path: Path) -> None:
    grey, alpha = (DEPTH * 255).astype(np.uint8), np.full(DEPTH.shape, 255, np.uint8)
    alpha[:5], alpha[5:10] = 0, 200
    hidden = grey.copy()
    hidden[:5] = 255
    Image.merge("LA", [Image.fromarray(hidden), Image.fromarray(alpha)]).save(tmp_path / "la.png")
    expected = torch.from_numpy(grey / np.float32(255))
    expected[:5] = 0
    with pytest.warns(EightBitWarning):
        assert torch.equal(read_map(tmp_path / "la.png", "depth")[0, 0], expected)
    with Image.open(tmp_path / "la.png") as image:
        assert torch.equal(as_maps("depth", image)[0, 0], expected)
    pixels = np.dstack([((facing() + 1) / 2 * 255).round().astype(np.uint8), alpha])
    Image.fromarray(pixels).save(tmp_path / "n.png")
    normals = read_map(tmp_path / "n.png", "normal")
    assert normals[:, :, :5].abs().max() == 0
    assert (normals[:, :, 5:].norm(dim=1) > 0.9).all()


def test_a_16_bit_png_may_name_one_grey_as_transparent(tmp_path: Path) -> None:
    values = (DEPTH * 65535).astype(np.uint16)
    values[:5] = 54321
    Image.fromarray(values).save(tmp_path / "d.png")
    with_chunk(tmp_path / "d.png", b"tRNS", struct.pack(">H", 54321))
    depth = read_map(tmp_path / "d.png", "depth")
    assert depth[:, :, :5].abs().max() == 0
    assert np.allclose(depth[0, 0, 5:], values[5:] / 65535)
    assert (read_picture(tmp_path / "d.png")[:, :, :5] == 1).all()


def test_transparent_pixels_of_a_modality_without_such_are_refused() -> None:
    albedo = Modality(name="albedo", channels=3, meaning="for a test")
    transparent = np.eye(6, 8) > 0
    with pytest.raises(RangeError, match="got albedo with transparent pixels"):
        map_tensor(COLOURS, albedo, transparent)
    assert map_tensor(COLOURS, albedo).shape == (3, 6, 8)


# Normals (K12)


def test_normals_that_face_away_are_refused(tmp_path: Path) -> None:
    normals = facing()
    for turned in (normals * [1, 1, -1], normals * [1, -1, -1], -normals):
        np.save(tmp_path / "n.npy", turned)
        with pytest.raises(RangeError, match=r"n\.npy.*0% point to the camera; expected unit vectors, x right, y up, z towards the camera"):
            read_map(tmp_path / "n.npy", "normal")
    with pytest.raises(RangeError, match="point to the camera"):
        as_maps("normal", [normals, -normals])


@pytest.mark.parametrize("scale", [0.5, 0.8])
def test_normals_that_are_not_unit_are_refused(scale: float) -> None:
    with pytest.raises(RangeError, match="0% have length 1; expected unit vectors"):
        as_maps("normal", normalize(torch.rand(1, 3, 8, 8), dim=1) * scale)


def test_a_photo_is_no_map_of_normals(tmp_path: Path) -> None:
    Image.fromarray(RNG.integers(0, 256, (40, 50, 3), np.uint8)).resize((200, 160)).save(tmp_path / "photo.png")
    with pytest.raises(RangeError, match=r"have length 1; .*is it a photo"):
        read_map(tmp_path / "photo.png", "normal")


def test_normals_without_surface_or_with_soft_edges_are_read() -> None:
    sky = torch.zeros(1, 3, 8, 8)
    assert torch.equal(as_maps("normal", sky), sky)
    normals = torch.from_numpy(facing()).permute(2, 0, 1)[None]
    normals[..., :20, :] = 0
    normals[..., 20, :] *= 0.6
    assert torch.equal(as_maps("normal", normals), normals)


# Colour profiles (K13)


def wide_profile() -> bytes:
    """sRGB's profile with red and green exchanged: a space that nobody takes for sRGB."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return content.replace(b"rXYZ", b"?XYZ", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"?XYZ", b"gXYZ", 1)


def test_a_profile_is_converted_to_srgb(tmp_path: Path) -> None:
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[..., 0] = 255
    for suffix in ("png", "tiff", "webp"):
        Image.fromarray(pixels).save(
            tmp_path / f"a.{suffix}", icc_profile=wide_profile(), **({"lossless": True} if suffix == "webp" else {})
        )
        picture = read_picture(tmp_path / f"a.{suffix}")[0, :, 3, 4]
        assert torch.allclose(picture, torch.tensor([0.0, 1.0, 0.0]), atol=0.02)
        with Image.open(tmp_path / f"a.{suffix}") as image:
            assert torch.equal(as_maps("rgb", image)[0, :, 3, 4], picture)


def test_transparency_outlives_a_profile(tmp_path: Path) -> None:
    pixels = np.zeros((6, 8, 4), np.uint8)
    pixels[..., 0], pixels[:3, :, 3] = 255, 255
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=wide_profile())
    picture = read_picture(tmp_path / "a.png")[0]
    assert (picture[:, 3:] == 1).all()
    assert torch.allclose(picture[:, 0, 0], torch.tensor([0.0, 1.0, 0.0]), atol=0.02)


def test_the_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode in ("RGB", "L", "P"):
        image = Image.fromarray(COLOURS).convert(mode)
        image.save(tmp_path / "with.png", icc_profile=srgb)
        image.save(tmp_path / "without.png")
        assert torch.equal(read_picture(tmp_path / "with.png"), read_picture(tmp_path / "without.png"))


def test_a_profile_of_nothing_or_of_other_colours_is_left_aside(tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for content in (b"nonsense", bytes(1000), wide_profile()[:200], lab):
        Image.fromarray(COLOURS).save(tmp_path / "a.png", icc_profile=content)
        with pytest.warns(ColourProfileWarning, match="left aside, its colours count as sRGB"):
            assert np.array_equal(read_picture(tmp_path / "a.png")[0].permute(1, 2, 0).numpy() * 255, COLOURS)


def test_maps_and_masks_have_no_colours(tmp_path: Path) -> None:
    grey = (DEPTH * 255).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png", icc_profile=b"nonsense")
    with pytest.warns(EightBitWarning):
        assert np.allclose(read_map(tmp_path / "a.png", "depth")[0, 0], grey / 255)
    assert np.array_equal(read_mask(tmp_path / "a.png")[0, 0], grey >= 128)


# Large files (K14, K15)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"tEXt", b"workflow\0" + b"{}" * 10**6),
        (b"zTXt", b"workflow\0\0" + zlib.compress(b"{}" * 10**6)),
        (b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"{}" * 10**6)),
        (b"zTXt", b"bomb\0\0" + zlib.compress(bytes(2 * 10**8))),
    ],
)
@pytest.mark.parametrize("at_end", [False, True])
def test_a_png_with_much_text_is_read(kind: bytes, body: bytes, at_end: bool, tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    with_chunk(tmp_path / "a.png", kind, body, at_end=at_end)
    for _ in range(40 if kind == b"iTXt" else 0):  # more than 64 MB together
        with_chunk(tmp_path / "a.png", kind, body)
    assert np.array_equal(read_picture(tmp_path / "a.png")[0].permute(1, 2, 0).numpy() * 255, COLOURS)


def test_a_png_with_a_large_profile_is_read_by_it(tmp_path: Path) -> None:
    content = wide_profile()
    large = struct.pack(">I", len(content) + 3 * 10**6) + content[4:] + RNG.integers(0, 256, 3 * 10**6, np.uint8).tobytes()
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[..., 0] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with_chunk(tmp_path / "a.png", b"iCCP", b"large\0\0" + zlib.compress(large))
    assert torch.allclose(read_picture(tmp_path / "a.png")[0, :, 3, 4], torch.tensor([0.0, 1.0, 0.0]), atol=0.02)
    Image.fromarray(COLOURS).save(tmp_path / "b.png")
    with_chunk(tmp_path / "b.png", b"iCCP", b"bomb\0\0" + zlib.compress(bytes(2 * 10**8)))
    with pytest.warns(ColourProfileWarning):
        assert np.array_equal(read_picture(tmp_path / "b.png")[0].permute(1, 2, 0).numpy() * 255, COLOURS)


def test_a_broken_png_with_much_text_is_named(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    with_chunk(tmp_path / "a.png", b"tEXt", b"workflow\0" + b"{}" * 10**6)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-40])
    with pytest.raises(InputFileError, match=r"cannot read .*a\.png"):
        read_picture(tmp_path / "a.png")


def test_photos_beyond_pils_limit_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # a phone's photo of 200 megapixels is 2.2 times PIL's limit
    assert read_picture(tmp_path / "a.png").shape == (1, 3, 6, 8)
    assert picture_files.MAX_PIXELS >= 250_000_000


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    side = 20_000
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    with pytest.raises(InputFileError, match="20000 x 20000, more pixels than the limit of 300 million"):
        read_picture(tmp_path / "a.png")


# Masks (K15)


@pytest.mark.parametrize("white", [1, 1.2, 200, 255, 65535])
def test_masks_of_floats_are_read_by_their_white(white: float, tmp_path: Path) -> None:
    asked = np.eye(6, 8, dtype=np.float32)
    mask = np.where(asked > 0, white, 0.01 * white).astype(np.float32)
    Image.fromarray(mask).save(tmp_path / "m.tiff")
    np.save(tmp_path / "m.npy", mask)
    for read in (read_mask(tmp_path / "m.tiff"), read_mask(tmp_path / "m.npy"), as_masks(mask), as_masks(torch.from_numpy(mask))):
        assert np.array_equal(read[0, 0], asked)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3.0, 100.0, 1e6])
def test_masks_of_unknown_white_are_refused(bad: float, tmp_path: Path) -> None:
    mask = np.eye(6, 8, dtype=np.float32)
    mask[2, 5] = bad
    Image.fromarray(mask).save(tmp_path / "m.tiff")
    with pytest.raises(RangeError, match=r"m\.tiff.*got a mask .*expected 0 to 1, 255 or 65535"):
        read_mask(tmp_path / "m.tiff")


def test_masks_of_colours_are_refused_unless_grey() -> None:
    mask = (np.eye(6, 8) * 255).astype(np.uint8)
    assert np.array_equal(as_masks(np.repeat(mask[..., None], 3, -1))[0, 0], mask > 0)
    with pytest.raises(ShapeError, match="a colour picture"):
        as_masks(COLOURS)


# Forms of arrays (K15)


def test_colours_are_no_batch_of_depth_maps() -> None:
    for colours in (COLOURS / 255.0, COLOURS, np.dstack([COLOURS, COLOURS[..., :1]])):
        with pytest.raises(ShapeError, match=r"got depth of shape \(6, 8, [34]\), a colour picture; expected a greyscale map"):
            as_maps("depth", colours)
    assert np.array_equal(as_maps("depth", np.repeat(DEPTH[..., None], 3, -1))[0, 0], DEPTH)


@pytest.mark.parametrize("form", [(40, 50), (1, 40, 50), (40, 50, 1), (1, 1, 40, 50), (1, 40, 50, 1)])
def test_forms_of_one_depth_map_are_read_alike(form: tuple[int, ...], tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", DEPTH.reshape(form))
    np.savez(tmp_path / "d.npz", depth=DEPTH.reshape(form))
    np.savez_compressed(tmp_path / "c.npz", DEPTH.reshape(form))
    for name in ("d.npy", "d.npz", "c.npz"):
        assert np.array_equal(read_map(tmp_path / name, "depth")[0, 0], DEPTH)
    np.save(tmp_path / "m.npy", 1 / (0.1 + DEPTH.reshape(form)))
    assert np.allclose(read_map(tmp_path / "m.npy", "depth", unit="m")[0, 0], (0.1 + DEPTH) / (0.1 + DEPTH).max())
    assert np.array_equal(as_maps("depth", DEPTH.reshape(form))[0, 0], DEPTH)


def test_channels_may_come_first_or_last(tmp_path: Path) -> None:
    normals = facing()
    for name, array in {"last": normals, "first": normals.transpose(2, 0, 1), "batch": normals[None]}.items():
        np.save(tmp_path / f"{name}.npy", array)
        assert np.array_equal(read_map(tmp_path / f"{name}.npy", "normal")[0].permute(1, 2, 0), normals)


def test_several_maps_in_one_file_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "two.npy", np.stack([DEPTH, DEPTH]))
    for unit in ("disparity", "m"):
        with pytest.raises(ShapeError, match=r"two\.npy.*expected one map"):
            read_map(tmp_path / "two.npy", "depth", unit=unit)
    np.savez(tmp_path / "two.npz", depth=DEPTH, mask=DEPTH)
    with pytest.raises(InputFileError, match=r"archive of 2 arrays \(depth, mask\).*expected a single one"):
        read_map(tmp_path / "two.npz", "depth")
    np.savez(tmp_path / "objects.npz", np.array([{"a": 1}], object))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 broken")
    for name in ("objects.npz", "broken.npz", "missing.npz"):
        with pytest.raises(InputFileError, match=f"cannot read .*{name}"):
            read_map(tmp_path / name, "depth")


def test_exr_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(MissingPackageError, match=r"pip install jointnet\[exr\]"):
        read_map(tmp_path / "d.exr", "depth")


def test_exr_is_read(tmp_path: Path) -> None:
    openexr: ModuleType = pytest.importorskip("OpenEXR")

    def write(name: str, channels: dict[str, np.ndarray]) -> Path:
        header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
        with openexr.File(header, {key: np.ascontiguousarray(value) for key, value in channels.items()}) as file:
            file.write(str(tmp_path / name))
        return tmp_path / name

    normals = facing()
    vectors = dict(zip("XYZ", normals.transpose(2, 0, 1), strict=True))
    assert np.array_equal(read_map(write("z.exr", {"Z": DEPTH}), "depth")[0, 0], DEPTH)
    assert np.allclose(read_map(write("h.exr", {"V": DEPTH.astype(np.float16)}), "depth")[0, 0], DEPTH, atol=1e-3)
    assert np.array_equal(read_map(write("rgb.exr", dict.fromkeys("RGBA", DEPTH)), "depth")[0, 0], DEPTH)
    assert np.array_equal(read_map(write("n.exr", vectors), "normal")[0].permute(1, 2, 0), normals)
    distance = read_map(write("m.exr", {"Z": 1 + 1 / (0.1 + DEPTH)}), "depth", unit="m")
    assert float(distance.max()) == 1
    with pytest.raises(InputFileError, match=r"got EXR channels .*expected one, or R, G, B, or X, Y, Z"):
        read_map(write("two.exr", {"Z": DEPTH, "W": DEPTH}), "depth")
    (tmp_path / "broken.exr").write_bytes(b"hello")
    for name in ("broken.exr", "missing.exr"):
        with pytest.raises(InputFileError, match=f"cannot read .*{name}"):
            read_map(tmp_path / name, "depth")


def test_float_tiffs_are_maps(tmp_path: Path) -> None:
    Image.fromarray(DEPTH).save(tmp_path / "d.tiff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_map(tmp_path / "d.tiff", "depth")[0, 0], DEPTH)
