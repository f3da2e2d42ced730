"""A folder of one's own as training data: what is taken, what is refused, what is encoded anew."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from jointnet.data.samples import batched, encode_source
from PIL import Image

from jointnet.data.folder import FolderSource
from jointnet.errors import DamagedFileWarning, DataFolderError, DataFolderWarning, EightBitWarning, OutputError
from tests.conftest import read_png, tiny_pipeline


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pictures with depth as .npy or .png, one caption file with two lines."""
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(3):
        add_sample(folder, str(i), as_array=bool(i % 2))
    (folder / "0.txt").write_text("a red ball\na ball\n")
    return folder


def add_sample(folder: Path, name: str, *, as_array: bool = False, depth_size: tuple[int, int] = (32, 40)) -> None:
    """NAME.png of 40 x 32, its depth and its caption."""
    rng = np.random.default_rng(list(name.encode()))
    Image.fromarray(rng.integers(0, 255, (32, 40, 3), np.uint8)).save(folder / f"{name}.png")
    depth = rng.random(depth_size, np.float32)
    if as_array:
        np.save(folder / f"{name}.depth.npy", depth)
    else:
        Image.fromarray((depth * 65535).astype(np.uint16)).save(folder / f"{name}.depth.png")
    (folder / f"{name}.txt").write_text("a box\n")


def test_depth_files_of_both_kinds_are_read_alike(data: Path) -> None:
    maps = list(FolderSource(data, 32).maps("depth"))
    assert [m.shape for m in maps] == [(1, 32, 32)] * 3
    assert torch.equal(maps[1][0], torch.from_numpy(np.load(data / "1.depth.npy")[:, 4:36]))
    png = read_png(data / "0.depth.png")[:, 4:36] / 65535
    assert np.abs(maps[0][0].numpy() - png).max() < 1e-6


def test_a_picture_that_exif_turns_has_the_size_it_is_shown_in(data: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 128)).save(data / "3.jpg", exif=exif)
    assert FolderSource(data, 32).size_ids()[-1].tolist() == [64, 128, 0, 16, 32, 32]
    np.save(data / "3.depth.npy", np.linspace(0, 1, 64 * 128, dtype=np.float32).reshape(64, 128))
    assert len(list(FolderSource(data, 32).maps("depth"))) == 4


def test_sizes_and_crops_are_those_of_the_pictures(data: Path) -> None:
    Image.new("RGB", (64, 128)).save(data / "tall.png")
    ids = FolderSource(data, 32).size_ids()
    assert ids[0].tolist() == [32, 40, 0, 4, 32, 32]  # original, crop, target: each height first
    assert ids[-1].tolist() == [128, 64, 16, 0, 32, 32]


def test_captions_are_drawn_from_all_lines(data: Path) -> None:
    assert FolderSource(data, 32).captions() == [["a red ball", "a box", "a box"], ["a ball", "a box", "a box"]]


def test_names_may_have_dots(data: Path) -> None:
    add_sample(data, "IMG.2024", as_array=True)
    source = FolderSource(data, 32)
    assert [p.name for p in source.names()] == ["0.png", "1.png", "2.png", "IMG.2024.png"]
    assert len(list(source.maps("depth"))) == 4


def test_a_map_of_another_size_than_its_picture_is_refused(data: Path) -> None:
    add_sample(data, "odd", depth_size=(32, 32))
    with pytest.raises(DataFolderError, match=r"got odd\.depth\.png of 32 x 32 for odd\.png of 40 x 32"):
        list(FolderSource(data, 32).maps("depth"))


def test_captions_in_another_encoding_are_named(data: Path) -> None:
    (data / "1.txt").write_bytes("ein Würfel".encode("latin-1"))
    with pytest.raises(DataFolderError, match=r"1\.txt that are not UTF-8"):
        FolderSource(data, 32).captions()


def test_depth_of_8_bits_is_warned_of_once(data: Path) -> None:
    for name in ("0", "2"):
        Image.fromarray(np.arange(32 * 40, dtype=np.uint16).reshape(32, 40).astype(np.uint8)).save(data / f"{name}.depth.png")
    with pytest.warns(EightBitWarning) as warned:
        list(FolderSource(data, 32).maps("depth"))
    assert len(warned) == 1


@torch.no_grad()
def test_latents_are_kept_until_pictures_or_autoencoder_change(data: Path, tmp_path: Path) -> None:
    def encode(size: int = 32, scale: float = 1.0) -> torch.Tensor:
        pipeline = tiny_pipeline()
        pipeline.vae.register_to_config(scaling_factor=scale)
        folder = tmp_path / "latents"
        return encode_source(FolderSource(data, size), ("rgb", "depth"), pipeline.codec, folder, *pipeline.training_text()).latents

    first = encode()
    written = (tmp_path / "latents" / "rgb.safetensors").stat().st_mtime_ns
    assert torch.equal(encode(), first)
    assert (tmp_path / "latents" / "rgb.safetensors").stat().st_mtime_ns == written
    assert encode(size=16).shape[-1] * 2 == first.shape[-1]
    assert torch.allclose(encode(scale=0.5), first / 2, atol=1e-3)
    for path in data.glob("0.*"):
        path.unlink()
    assert torch.allclose(encode(), first[1:], atol=1e-3)
    add_sample(data, "0.9")
    added = encode()
    assert torch.allclose(added[1:], first[1:], atol=1e-3)
    assert not torch.allclose(added[0], first[0], atol=1e-3)


def test_a_missing_map_is_found_before_anything_is_encoded(data: Path, tmp_path: Path) -> None:
    (data / "2.depth.png").unlink()
    pipeline = tiny_pipeline()
    with pytest.raises(DataFolderError, match=r"no depth for 2\.png"):
        encode_source(FolderSource(data, 32), ("rgb", "depth"), pipeline.codec, tmp_path / "latents", *pipeline.training_text())
    assert not (tmp_path / "latents").exists()


def pictures(source: FolderSource) -> list[str]:
    return [path.relative_to(source.folder).as_posix() for path in source.names()]


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfa red ball\r\na ball\r\n", b"a red ball\na ball"])
def test_a_byte_order_mark_is_no_part_of_a_caption(content: bytes, data: Path) -> None:
    (data / "0.txt").write_bytes(content)
    assert [draw[0] for draw in FolderSource(data, 32).captions()] == ["a red ball", "a ball"]


def test_two_pictures_of_one_stem_are_refused_naming_both(data: Path) -> None:
    shutil.copy(data / "0.png", data / "0.jpg")
    with pytest.raises(DataFolderError, match=r"files of one name in .*: 0\.jpg and 0\.png; expected one of each"):
        FolderSource(data, 32).names()
    (data / "0.jpg").rename(data / "0.rgb.png")
    with pytest.raises(DataFolderError, match=r"0\.png and 0\.rgb\.png"):
        FolderSource(data, 32).names()
    (data / "0.rgb.png").unlink()
    shutil.copy(data / "0.txt", data / "0.TXT")
    shutil.copy(data / "2.depth.png", data / "2.Depth.PNG")
    with pytest.raises(DataFolderError, match=r"2\.Depth\.PNG and 2\.depth\.png; 0\.TXT and 0\.txt"):
        FolderSource(data, 32).names()


def test_pictures_may_be_named_rgb_and_be_bitmaps_or_tiffs(data: Path) -> None:
    (data / "0.png").rename(data / "0.rgb.png")
    for name, suffix in (("1", ".bmp"), ("2", ".TIFF")):
        with Image.open(data / f"{name}.png") as image:
            image.save(data / f"{name}{suffix}")
        (data / f"{name}.png").unlink()
    source = FolderSource(data, 32)
    assert pictures(source) == ["0.rgb.png", "1.bmp", "2.TIFF"]
    assert source.captions()[0] == ["a red ball", "a box", "a box"]
    assert len(list(source.maps("rgb"))) == len(list(source.maps("depth"))) == 3


def test_sub_folders_are_read_and_links_in_a_circle_are_not_followed_again(data: Path) -> None:
    for place in ("a", "a/b"):
        (data / place).mkdir()
        add_sample(data / place, "0", as_array=True)  # one name in three folders
    (data / "a" / "b" / "up").symlink_to(data)
    source = FolderSource(data, 32)
    assert pictures(source) == ["0.png", "1.png", "2.png", "a/0.png", "a/b/0.png"]
    maps = list(source.maps("depth"))
    assert not torch.equal(maps[0], maps[3])
    (data / "a" / "b" / "0.txt").unlink()
    with pytest.raises(DataFolderError, match=r"no caption for a/b/0\.png; expected 0\.txt beside it"):
        FolderSource(data, 32).captions()


def test_files_of_the_mac_are_ignored(data: Path) -> None:
    for name in ("._0.png", "._0.txt", "._0.depth.png", ".DS_Store", "__MACOSX/0.png", ".thumbs/0.png"):
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_bytes(b"\x00\x05\x16\x07")
    source = FolderSource(data, 32)
    assert pictures(source) == ["0.png", "1.png", "2.png"]
    assert source.contents(["rgb", "depth"])


def test_suffixes_may_have_any_case(data: Path) -> None:
    for old, new in (("0.png", "0.PNG"), ("0.txt", "0.TXT"), ("0.depth.png", "0.depth.PNG"), ("1.depth.npy", "1.Depth.NPY")):
        (data / old).rename(data / new)
    source = FolderSource(data, 32)
    assert pictures(source) == ["0.PNG", "1.png", "2.png"]
    assert source.captions()[0] == ["a red ball", "a box", "a box"]
    assert len(list(source.maps("depth"))) == 3


def test_a_picture_is_no_map_by_its_name_only(data: Path) -> None:
    for name in ("holiday.normal.jpg", "map.depth.png"):
        Image.new("RGB", (40, 32), "red").save(data / name)
        (data / name).with_suffix(".txt").write_text("a holiday")
    assert pictures(FolderSource(data, 32)) == ["0.png", "1.png", "2.png", "holiday.normal.jpg", "map.depth.png"]


def test_what_is_left_out_is_warned_of_once_with_counts_and_first_names(data: Path) -> None:
    for name in ("5.txt", "6.txt", "7.txt", "8.txt", "5.depth.npy", "0.normal.jpg", "0.heic"):
        (data / name).write_bytes(b"")
    source = FolderSource(data, 32)
    with pytest.warns(DataFolderWarning) as warned:
        assert pictures(source) == ["0.png", "1.png", "2.png"]
    assert len(list(source.maps("rgb"))) == 3
    (message,) = [str(warning.message) for warning in warned]
    assert "captions without a picture: 4 (" in message
    assert ", ...)" in message
    assert "maps without a picture: 1 (5.depth.npy)" in message
    assert "maps of a kind that is not read: 1 (0.normal.jpg)" in message
    assert "files of a kind that is not read: 1 (0.heic)" in message


def test_all_pictures_without_a_map_or_a_caption_are_named(data: Path) -> None:
    for name in ("1.depth.npy", "2.depth.png"):
        (data / name).unlink()
    with pytest.raises(DataFolderError, match=r"no depth for 1\.png, 2\.png; expected for 1\.png 1\.depth\.npy or 1\.depth\.png"):
        FolderSource(data, 32).fingerprints(["rgb", "depth"])
    for name in ("0.txt", "2.txt"):
        (data / name).unlink()
    with pytest.raises(DataFolderError, match=r"no caption for 0\.png, 2\.png; expected for 0\.png 0\.txt"):
        FolderSource(data, 32).captions()


def test_all_broken_files_are_found_before_anything_is_encoded(data: Path, tmp_path: Path) -> None:
    add_sample(data, "odd", depth_size=(32, 32))
    (data / "0.png").write_bytes((data / "0.png").read_bytes()[:-200])
    (data / "1.depth.npy").write_bytes(b"none")
    (data / "1.txt").write_bytes(b"\xff\xfe")
    (data / "2.png").unlink()
    (data / "2.png").symlink_to("/nowhere/2.png")
    pipeline = tiny_pipeline()
    source = FolderSource(data, 32)
    with pytest.raises(DataFolderError) as error:
        source.contents(["rgb", "depth"])
    message = str(error.value)
    assert message.startswith("got 5 files that cannot be used in")
    assert all(name in message for name in ("0.png", "1.depth.npy", "1.txt", "2.png", "odd.depth.png"))
    assert "\n" not in message
    (data / "1.txt").write_text("a box")
    with pytest.raises(DataFolderError, match="got 4 files"):
        encode_source(FolderSource(data, 32), ("rgb", "depth"), pipeline.codec, tmp_path / "latents", *pipeline.training_text())
    assert not (tmp_path / "latents").exists()


def replaced(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Replace a file's content; size and date stay."""
    facts = path.stat()
    content = change(path.read_bytes())
    assert len(content) == facts.st_size
    path.write_bytes(content)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)


def test_a_file_that_is_replaced_with_equal_size_and_date_is_noticed(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**10)  # files this young are read again in any case
    index = tmp_path / "run" / "files.json"

    def contents() -> dict[str, str]:
        return FolderSource(data, 32, index).contents(["rgb", "depth"])

    first = contents()
    assert set(json.loads(index.read_text())) == {p.name for p in data.iterdir()}
    replaced(data / "1.depth.npy", lambda content: content[:-4] + content[-8:-4])
    second = contents()
    assert {kind for kind in first if first[kind] != second[kind]} == {"depth"}
    replaced(data / "1.txt", lambda content: content.upper())
    assert {kind for kind in first if second[kind] != contents()[kind]} == {"captions"}


def test_a_picture_of_another_size_makes_its_map_be_looked_at_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**10)
    FolderSource(data, 32, tmp_path / "files.json").contents(["rgb", "depth"])
    Image.new("RGB", (32, 32)).save(data / "0.png")
    with pytest.raises(DataFolderError, match=r"got 0\.depth\.png of 40 x 32 for 0\.png of 32 x 32"):
        FolderSource(data, 32, tmp_path / "files.json").contents(["rgb", "depth"])


def test_a_file_that_changed_a_moment_ago_is_not_trusted(data: Path, tmp_path: Path) -> None:
    index = tmp_path / "files.json"
    FolderSource(data, 32, index).contents(["rgb", "depth"])
    assert not index.exists()


def test_known_files_are_not_read_again_also_after_a_move(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**10)
    index, moved = tmp_path / "files.json", tmp_path / "moved"
    first = FolderSource(data, 32, index).contents(["rgb", "depth"])
    written = index.stat().st_mtime_ns
    data.rename(moved)
    monkeypatch.setattr("jointnet.files.content_index.of_content", lambda path: pytest.fail(f"read {path}"))
    assert FolderSource(moved, 32, index).contents(["rgb", "depth"]) == first
    assert index.stat().st_mtime_ns == written
    monkeypatch.undo()
    shutil.copytree(moved, tmp_path / "copied")
    assert FolderSource(tmp_path / "copied", 32).contents(["rgb", "depth"]) == first


@pytest.mark.parametrize("content", ["", "[]", '{"0.png": 3, "1.png": []}'])
def test_a_damaged_index_is_read_as_none(content: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "files.json").write_text(content)
    assert FolderSource(data, 32, tmp_path / "files.json").contents(["rgb"]) == FolderSource(data, 32).contents(["rgb"])


@torch.no_grad()
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: (path.unlink(), path.symlink_to("/nowhere/rgb")),
    ],
)
def test_damaged_latents_are_encoded_again_with_a_warning(damage: Callable[[Path], object], data: Path, tmp_path: Path) -> None:
    def encode() -> torch.Tensor:
        pipeline = tiny_pipeline()
        source = FolderSource(data, 32)
        return encode_source(source, ("rgb", "depth"), pipeline.codec, tmp_path / "latents", *pipeline.training_text()).latents

    first = encode()
    damage(tmp_path / "latents" / "rgb.safetensors")
    with pytest.warns(DamagedFileWarning, match=r"rgb\.safetensors' is damaged"):
        assert torch.equal(encode(), first)
    assert torch.equal(encode(), first)


def test_latents_that_cannot_be_written_are_named_before_encoding(data: Path, tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    (tmp_path / "latents").symlink_to("/nowhere/latents")
    with pytest.raises(OutputError, match="latents is a link to '/nowhere/latents', which is not there"):
        encode_source(FolderSource(data, 32), ("rgb", "depth"), pipeline.codec, tmp_path / "latents", *pipeline.training_text())


def test_names_of_many_pictures_are_sorted_out_in_a_moment(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(2000):
        for suffix in (".jpg", ".txt", ".depth.npy"):
            (folder / f"{i:06d}{suffix}").touch()
    before = time.perf_counter()
    assert len(FolderSource(folder, 32)) == 2000
    assert time.perf_counter() - before < 10  # about 0.1 s alone


def test_the_larger_the_maps_the_fewer_are_encoded_at_once() -> None:
    sizes = {side: [len(part) for part in batched([torch.zeros(1, side, side)] * 40)] for side in (128, 256, 1024)}
    assert sizes == {128: [32, 8], 256: [8] * 5, 1024: [1] * 40}
