"""A folder of one's own as a source of samples: what is taken, what is refused, what is left out."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jointnet.data.folder import FolderSource
from jointnet.data.sample import Source
from jointnet.errors import BadSampleError, DataFolderError, DataFolderWarning, EightBitWarning, UnknownNameError
from jointnet.modalities import read
from tests.conftest import read_png
from tests.data.folders import add_sample, captions, ids, three_samples


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return three_samples(tmp_path / "data")


def bad(source: FolderSource, row: int, modalities: tuple[str, ...] = ("rgb", "depth")) -> tuple[str, str]:
    """Message and reason of a sample that cannot be used."""
    with pytest.raises(BadSampleError) as error:
        source.read(row, modalities)
    assert "\n" not in str(error.value)
    return str(error.value), error.value.reason


def test_a_folder_is_a_source_of_pictures_at_their_own_size(data: Path) -> None:
    source = FolderSource(data)
    assert isinstance(source, Source)
    assert (len(source), list(source.blocks)) == (3, [3])
    sample = source.read(1, ("rgb", "depth"))
    assert (sample.id, sample.captions, sample.original_size) == ("1.png", ("a box",), (32, 40))
    assert {name: tuple(map_.shape) for name, map_ in sample.maps.items()} == {"rgb": (3, 32, 40), "depth": (1, 32, 40)}
    assert torch.equal((sample.maps["rgb"] * 255).round().byte(), torch.tensor(read_png(data / "1.png")).permute(2, 0, 1))


def test_depth_files_of_both_kinds_are_read_alike(data: Path) -> None:
    maps = [FolderSource(data).read(row, ("depth",)).maps["depth"] for row in range(2)]
    assert torch.equal(maps[1][0], torch.from_numpy(np.load(data / "1.depth.npy")))
    assert np.abs(maps[0][0].numpy() - read_png(data / "0.depth.png") / 65535).max() < 1e-6


def test_a_picture_is_decoded_once_a_reading(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    open_picture = read.open_picture
    monkeypatch.setattr(read, "open_picture", lambda path: opened.append(path.name) or open_picture(path))
    FolderSource(data).read(0, ("rgb", "depth"))
    assert sorted(opened) == ["0.depth.png", "0.png"]
    FolderSource(data).read(1, ())
    assert len(opened) == 2


def test_a_picture_that_exif_turns_has_the_size_it_is_shown_in(data: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 128)).save(data / "3.jpg", exif=exif)
    (data / "3.txt").write_text("a wall")
    np.save(data / "3.depth.npy", np.linspace(0, 1, 64 * 128, dtype=np.float32).reshape(64, 128))
    assert FolderSource(data).read(3, ("rgb", "depth")).original_size == FolderSource(data).read(3, ()).original_size == (64, 128)


def test_values_that_overshoot_their_range_a_little_are_clipped(data: Path) -> None:
    np.save(data / "1.depth.npy", np.linspace(-0.05, 1.05, 32 * 40, dtype=np.float32).reshape(32, 40))
    depth = FolderSource(data).read(1, ("depth",)).maps["depth"]
    assert (float(depth.min()), float(depth.max())) == (0, 1)


def test_an_unknown_modality_is_no_bad_sample(data: Path) -> None:
    with pytest.raises(UnknownNameError, match="'heat'"):
        FolderSource(data).read(0, ("heat",))


def test_captions_are_the_lines_that_are_not_blank_or_one_that_is(data: Path) -> None:
    (data / "1.txt").write_text("\n  \n")
    (data / "2.txt").write_bytes(b"\xef\xbb\xbfa red ball\r\n\r\na ball")
    assert captions(FolderSource(data)) == [("a red ball", "a ball"), ("",), ("a red ball", "a ball")]


BAD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no caption": (lambda d: (d / "1.txt").unlink(), "no caption", "got no caption for 1.png; expected 1.txt beside it"),
    "latin-1": (lambda d: (d / "1.txt").write_bytes("Würfel".encode("latin-1")), "captions not UTF-8", "1.txt"),
    "no map": (lambda d: (d / "1.depth.npy").unlink(), "no depth map", "no depth for 1.png; expected 1.depth.npy or 1.depth.png"),
    "half a picture": (lambda d: os.truncate(d / "1.png", 2000), "truncated picture", "1.png"),
    "an empty picture": (lambda d: os.truncate(d / "1.png", 0), "truncated picture", "1.png"),
    "a text as picture": (lambda d: (d / "1.png").write_text("a box"), "unreadable picture", "1.png"),
    "a link to nothing": (
        lambda d: ((d / "1.png").unlink(), (d / "1.png").symlink_to("/nowhere")),
        "picture that cannot be opened",
        "1.png",
    ),
    "half a map": (lambda d: os.truncate(d / "1.depth.npy", 2000), "unreadable depth map", "1.depth.npy"),
    "an empty map": (lambda d: os.truncate(d / "1.depth.npy", 0), "truncated depth map", "1.depth.npy"),
    "a constant map": (lambda d: np.save(d / "1.depth.npy", np.ones((32, 40))), "unusable depth map", "1.depth.npy"),
    "NaN": (lambda d: np.save(d / "1.depth.npy", np.full((32, 40), np.nan)), "unusable depth map", "1.depth.npy"),
    "metres": (lambda d: np.save(d / "1.depth.npy", np.linspace(1, 9, 1280).reshape(32, 40)), "unusable depth map", "1.depth.npy"),
    "another size": (
        lambda d: np.save(d / "1.depth.npy", np.random.default_rng(0).random((32, 32))),
        "depth map of another size than its picture",
        "got 1.depth.npy of 32 x 32 for 1.png of 40 x 32",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_with_one_sample_is_its_reason_and_leaves_the_others(what: str, data: Path) -> None:
    damage, reason, words = BAD[what]
    damage(data)
    source = FolderSource(data)
    message, got = bad(source, 1)
    assert got == reason
    assert words in message
    assert [source.read(row, ("rgb", "depth")).id for row in (0, 2)] == ["0.png", "2.png"]
    assert set(source.contents(("rgb", "depth"))) == {"captions", "rgb", "depth"}


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
def test_a_picture_that_is_cut_off_is_truncated_in_every_format(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / f"0{suffix}")
    (tmp_path / "0.txt").write_text("noise")
    os.truncate(tmp_path / f"0{suffix}", (tmp_path / f"0{suffix}").stat().st_size // 2)
    assert bad(FolderSource(tmp_path), 0, ("rgb",))[1] in ("truncated picture", "unreadable picture")


def test_a_folder_that_is_gone_is_no_bad_sample(data: Path, tmp_path: Path) -> None:
    source = FolderSource(data)
    assert len(source) == 3
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(DataFolderError, match="is gone"):
        source.read(0, ("rgb",))
    with pytest.raises(DataFolderError, match="is gone"):
        source.contents(("rgb",))


def test_depth_of_8_bits_is_warned_of_once(data: Path) -> None:
    for name in ("0", "2"):
        Image.fromarray(np.arange(32 * 40, dtype=np.uint16).reshape(32, 40).astype(np.uint8)).save(data / f"{name}.depth.png")
    source = FolderSource(data)
    with pytest.warns(EightBitWarning) as warned:
        samples = [source.read(row, ("rgb", "depth")) for row in (0, 2)]
    assert len(samples) == 2
    assert len(warned) == 1


def test_names_may_have_dots_and_sort_by_folder_and_stem(data: Path) -> None:
    for name in ("IMG.2024", "a-b", "a"):
        add_sample(data, name, as_array=True)
    assert ids(FolderSource(data)) == ["0.png", "1.png", "2.png", "IMG.2024.png", "a.png", "a-b.png"]
    assert len(FolderSource(data).read(3, ("rgb", "depth")).maps) == 2


def test_two_pictures_of_one_stem_are_refused_naming_both(data: Path) -> None:
    shutil.copy(data / "0.png", data / "0.jpg")
    with pytest.raises(DataFolderError, match=r"files of one name in .*: 0\.jpg and 0\.png; expected one of each"):
        len(FolderSource(data))
    (data / "0.jpg").rename(data / "0.rgb.png")
    with pytest.raises(DataFolderError, match=r"0\.png and 0\.rgb\.png"):
        len(FolderSource(data))
    (data / "0.rgb.png").unlink()
    shutil.copy(data / "0.txt", data / "0.TXT")
    shutil.copy(data / "2.depth.png", data / "2.Depth.PNG")
    with pytest.raises(DataFolderError, match=r"0\.TXT and 0\.txt; 2\.Depth\.PNG and 2\.depth\.png"):
        len(FolderSource(data))


def test_pictures_may_be_named_rgb_and_be_bitmaps_or_tiffs(data: Path) -> None:
    (data / "0.png").rename(data / "0.rgb.png")
    for name, suffix in (("1", ".bmp"), ("2", ".TIFF")):
        with Image.open(data / f"{name}.png") as image:
            image.save(data / f"{name}{suffix}")
        (data / f"{name}.png").unlink()
    source = FolderSource(data)
    assert ids(source) == ["0.rgb.png", "1.bmp", "2.TIFF"]
    assert captions(source)[0] == ("a red ball", "a ball")
    assert all(set(source.read(row, ("rgb", "depth")).maps) == {"rgb", "depth"} for row in range(3))


def test_sub_folders_are_read_and_links_in_a_circle_are_not_followed_again(data: Path) -> None:
    for place in ("a", "a/b"):
        (data / place).mkdir()
        add_sample(data / place, "0", as_array=True)  # one name in three folders
    (data / "a" / "b" / "up").symlink_to(data)
    source = FolderSource(data)
    assert ids(source) == ["0.png", "1.png", "2.png", "a/0.png", "a/b/0.png"]
    assert not torch.equal(source.read(0, ("depth",)).maps["depth"], source.read(3, ("depth",)).maps["depth"])
    (data / "a" / "b" / "0.txt").unlink()
    assert "no caption for a/b/0.png; expected 0.txt beside it" in bad(FolderSource(data), 4)[0]


def test_files_of_the_mac_are_ignored(data: Path) -> None:
    for name in ("._0.png", "._0.txt", "._0.depth.png", ".DS_Store", "__MACOSX/0.png", ".thumbs/0.png"):
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_bytes(b"\x00\x05\x16\x07")
    assert ids(FolderSource(data)) == ["0.png", "1.png", "2.png"]


def test_suffixes_may_have_any_case(data: Path) -> None:
    for old, new in (("0.png", "0.PNG"), ("0.txt", "0.TXT"), ("0.depth.png", "0.depth.PNG"), ("1.depth.npy", "1.Depth.NPY")):
        (data / old).rename(data / new)
    source = FolderSource(data)
    assert ids(source) == ["0.PNG", "1.png", "2.png"]
    assert captions(source)[0] == ("a red ball", "a ball")
    assert all(len(source.read(row, ("rgb", "depth")).maps) == 2 for row in range(3))


def test_a_picture_is_no_map_by_its_name_only(data: Path) -> None:
    for name in ("holiday.normal.jpg", "map.depth.png"):
        Image.new("RGB", (40, 32), "red").save(data / name)
        (data / name).with_suffix(".txt").write_text("a holiday")
    source = FolderSource(data)
    assert ids(source) == ["0.png", "1.png", "2.png", "holiday.normal.jpg", "map.depth.png"]
    assert captions(source)[3:] == [("a holiday",)] * 2


def test_what_is_left_out_is_warned_of_once_with_counts_and_first_names(data: Path) -> None:
    for name in ("5.txt", "6.txt", "7.txt", "8.txt", "5.depth.npy", "0.normal.jpg", "0.heic"):
        (data / name).write_bytes(b"")
    source = FolderSource(data)
    with pytest.warns(DataFolderWarning) as warned:
        assert ids(source) == ["0.png", "1.png", "2.png"]
    (message,) = [str(warning.message) for warning in warned]
    assert "captions without a picture: 4 (5.txt, 6.txt, 7.txt, ...)" in message
    assert "maps without a picture: 1 (5.depth.npy)" in message
    assert "maps of a kind that is not read: 1 (0.normal.jpg)" in message
    assert "files of a kind that is not read: 1 (0.heic)" in message


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataFolderError, match="no picture"):
        len(FolderSource(tmp_path))
    with pytest.raises(DataFolderError, match="no folder"):
        len(FolderSource(tmp_path / "none"))


def test_names_that_are_no_utf8_are_read_and_hashed(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "data")
    three_samples(tmp_path / "data")
    try:
        for old, new in ((b"1.png", b"\xff.png"), (b"1.txt", b"\xff.txt"), (b"1.depth.npy", b"\xff.depth.npy")):
            os.rename(os.path.join(folder, old), os.path.join(folder, new))
    except OSError:
        pytest.skip("this disk takes names in UTF-8 only")
    source = FolderSource(tmp_path / "data", index=tmp_path / "run" / "files.sqlite")
    row = ids(source).index(os.fsdecode(b"\xff.png"))
    assert source.read(row, ("rgb", "depth")).captions == ("a box",)
    assert source.contents(("rgb", "depth"))


@pytest.mark.parametrize("kept", [True, False])
def test_a_source_that_was_sent_to_another_process_reads_the_same_rows(kept: bool, data: Path, tmp_path: Path) -> None:
    source = FolderSource(data, index=tmp_path / "run" / "files.sqlite" if kept else None)
    before = ids(source)
    add_sample(data, "00")  # the folder was looked at before
    sent = pickle.loads(pickle.dumps(source))
    assert ids(sent) == before
    assert torch.equal(sent.read(1, ("rgb",)).maps["rgb"], source.read(1, ("rgb",)).maps["rgb"])


def test_contents_change_with_bytes_names_and_unit_and_not_with_the_place(data: Path, tmp_path: Path) -> None:
    def contents(unit: str = "disparity") -> dict[str, str]:
        return FolderSource(data, depth_unit=unit).contents(("rgb", "depth"))

    first = contents()
    assert list(first) == ["captions", "rgb", "depth"]
    assert {kind for kind in first if contents("mm")[kind] != first[kind]} == {"depth"}
    shutil.copytree(data, tmp_path / "copied")
    assert FolderSource(tmp_path / "copied").contents(("rgb", "depth")) == first
    (data / "1.txt").write_text("a cox\n")
    assert {kind for kind in first if contents()[kind] != first[kind]} == {"captions"}
    (data / "2.depth.png").unlink()
    assert {kind for kind in first if contents()[kind] != first[kind]} == {"captions", "depth"}


def test_contents_are_known_without_decoding(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jointnet.data.folder.read_map", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr("jointnet.modalities.picture_files.open_picture", lambda *_: pytest.fail("decoded"))
    assert len(FolderSource(data).contents(("rgb", "depth"))) == 3


def test_the_near_distance_is_that_of_the_unit(data: Path) -> None:
    assert FolderSource(data).depth_near_m is None
    assert FolderSource(data).with_depth_near(2.0) == FolderSource(data)
    assert FolderSource(data, depth_unit="m").with_depth_near(2.0).depth_near_m == 2.0
