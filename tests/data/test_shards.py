"""Tar shards as a source: what is read, what is refused, in one process and in several."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jointnet.data.manifest import Manifest
from jointnet.data.sample import Source
from jointnet.data.shard_index import INDEX_SUFFIX, split_name
from jointnet.data.shard_names import expand_shards, holds_shards
from jointnet.data.shard_writer import ShardWriter, key_of
from jointnet.data.shards import ShardSource
from jointnet.errors import BadSampleError, DataFolderError, EightBitWarning
from tests.data.shard_files import as_json, depth_npy, depth_png, picture, sample, serving_folder, write_shard, write_tar


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of 2, 3 and 1 samples."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for number, (first, count) in enumerate([(0, 2), (2, 3), (5, 1)]):
        write_shard(folder / f"{number:03d}.tar", first, count)
    return folder


def reasons(tmp_path: Path, members: dict[str, bytes], modalities: tuple[str, ...] = ("rgb", "depth")) -> list[str | None]:
    """Why each row of a shard cannot be used; None for one that can."""
    source = ShardSource(write_tar(tmp_path / "one.tar", members), tmp_path / "cache")
    found: list[str | None] = []
    for row in range(len(source)):
        try:
            source.read(row, modalities)
            found.append(None)
        except BadSampleError as error:
            found.append(error.reason)
    return found


def test_rows_are_read_in_any_order_with_their_maps(shards: Path, tmp_path: Path) -> None:
    source = ShardSource(shards, tmp_path / "cache")
    assert isinstance(source, Source)
    assert (len(source), list(source.blocks)) == (6, [2, 3, 1])
    for row in (5, 0, 3, 2):
        read = source.read(row, ("rgb", "depth"))
        assert read.id == source.id_of(row) == f"{0 if row < 2 else 1 if row < 5 else 2:03d}/{row:05d}"
        assert (read.captions, read.original_size) == ((f"picture {row}",), (32, 40))
        with Image.open(io.BytesIO(sample(row)["jpg"])) as image:
            assert np.abs(read.maps["rgb"].permute(1, 2, 0).numpy() * 255 - np.asarray(image)).max() < 1e-3
        stored = np.random.default_rng(row).integers(0, 65535, (32, 40), np.uint16)
        assert np.abs(read.maps["depth"][0].numpy() - stored / 65535).max() < 1e-6
    with pytest.raises(IndexError):
        source.read(6, ("rgb",))


def test_nothing_is_written_into_the_users_folder(shards: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in shards.iterdir())
    ShardSource(shards, tmp_path / "cache").read(0, ("rgb",))
    assert sorted(path.name for path in shards.iterdir()) == before


def test_an_index_is_made_once(shards: Path, tmp_path: Path) -> None:
    assert len(ShardSource(shards, tmp_path / "cache")) == 6
    indexes = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "indexes").iterdir()}
    assert len(indexes) == 3
    assert len(ShardSource(shards, tmp_path / "cache")) == 6
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "indexes").iterdir()} == indexes


def test_a_shard_that_was_replaced_is_indexed_anew(shards: Path, tmp_path: Path) -> None:
    source = ShardSource(shards, tmp_path / "cache")
    assert len(source) == 6
    write_shard(shards / "002.tar", 10, 4)
    with pytest.raises(DataFolderError, match=r"002\.tar.*has changed"):
        source.read(5, ("rgb",))
    assert len(ShardSource(shards, tmp_path / "cache")) == 9


def test_a_damaged_index_is_made_anew(shards: Path, tmp_path: Path) -> None:
    assert len(ShardSource(shards, tmp_path / "cache")) == 6
    for path in (tmp_path / "cache" / "indexes").iterdir():
        path.write_bytes(path.read_bytes()[:20])
    assert len(ShardSource(shards, tmp_path / "cache")) == 6


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a/b.c/000.depth.png", ("a/b.c/000", "depth.png")),
        ("./000.JPG", ("000", "jpg")),
        ("000", None),
        ("a/.hidden.jpg", None),
        ("._000.jpg", None),
        ("000.", None),
    ],
)
def test_keys_follow_the_basename_rule(name: str, parts: tuple[str, str] | None) -> None:
    assert split_name(name) == parts


def test_files_of_one_key_are_one_sample_wherever_they_lie(tmp_path: Path) -> None:
    files = sample(0)
    members = {
        "a.jpg": files["jpg"],
        "b.jpg": files["jpg"],
        "a.txt": b"a",
        "b.txt": b"b",
        "a.depth.npy": depth_npy(),
        "readme": b"no sample",
    }
    source = ShardSource(write_tar(tmp_path / "one.tar", members), tmp_path / "cache")
    assert [source.id_of(row) for row in range(len(source))] == ["one/a", "one/b"]
    assert source.read(0, ("rgb", "depth")).maps["depth"].shape == (1, 32, 40)


def test_an_incomplete_row_names_its_reason(tmp_path: Path) -> None:
    files = sample(0)
    bad = {
        "no caption": {"txt": None},
        "no depth map": {"depth.png": None},
        "no picture": {"jpg": None},
        "truncated picture": {"jpg": files["jpg"][: len(files["jpg"]) // 2]},
        "unreadable picture": {"jpg": b"%!PS-Adobe-3.0 EPSF-3.0"},
        "several pictures": {"png": picture(kind="PNG")},
        "depth map of another size than its picture": {"depth.png": depth_png(size=(32, 32))},
        "unreadable depth map": {"depth.png": b"not a picture"},
        "truncated depth map": {"depth.npy": depth_npy()[:1000]},
        "unusable depth map": {"depth.png": None, "depth.npy": _npy(np.zeros((32, 40), np.float32))},
        "captions not UTF-8": {"txt": b"\xff\xfe\xfa"},
        "captions not JSON": {"json": b"{"},
    }
    members: dict[str, bytes] = {}
    for number, changes in enumerate(bad.values()):
        kept = {kind: content for kind, content in {**files, **changes}.items() if content is not None}
        members |= {f"{number:02d}.{kind}": content for kind, content in kept.items()}
    assert reasons(tmp_path, members) == list(bad)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "one.tar", {"a.jpg": picture(), "a.txt": b"a"})
    with tarfile.open(path, "a:") as tar:
        tar.add(write_tar(tmp_path / "x", {}), "a.jpg")
    with pytest.raises(BadSampleError, match="two files of one name"):
        ShardSource(path, tmp_path / "cache").read(0, ("rgb",))


def test_bombs_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    large = io.BytesIO()
    np.lib.format.write_array_header_1_0(large, {"descr": "<f4", "fortran_order": False, "shape": (10**7, 10**7)})
    picture_bomb = bytearray(picture(kind="PNG"))
    picture_bomb[16:24] = (60000).to_bytes(4, "big") * 2  # the head's width and height
    picture_bomb[29:33] = zlib.crc32(picture_bomb[12:29]).to_bytes(4, "big")
    members = {"a.png": bytes(picture_bomb), "a.txt": b"a", "b.jpg": picture(), "b.txt": b"b", "b.depth.npy": large.getvalue()}
    assert reasons(tmp_path, members) == ["picture of too many pixels", "truncated depth map"]


@pytest.mark.parametrize(
    ("facts", "captions"),
    [
        ({"caption": "a ball"}, ("a ball",)),
        ({"text": "a ball\nof wood"}, ("a ball\nof wood",)),
        ({"captions": ["a ball", "", "a red ball"]}, ("a ball", "a red ball")),
        ({"caption": ""}, ("",)),
        ({"caption": None, "text": "a ball"}, ("a ball",)),
    ],
)
def test_captions_are_read_from_json(tmp_path: Path, facts: dict[str, object], captions: tuple[str, ...]) -> None:
    members = {"a.webp": picture(kind="WEBP"), "a.json": as_json(**facts, original_width=640, original_height=480)}
    read = ShardSource(write_tar(tmp_path / "one.tar", members), tmp_path / "cache").read(0, ("rgb",))
    assert (read.captions, read.original_size) == (captions, (480, 640))


@pytest.mark.parametrize("text", ['{"caption": 3}', "{}", "[1]", '{"caption": []}'])
def test_json_without_a_caption_has_none(tmp_path: Path, text: str) -> None:
    assert reasons(tmp_path, {"a.jpg": picture(), "a.json": text.encode()}, ("rgb",)) == ["no caption"]


def test_each_kind_of_warning_comes_once(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(1280).reshape(32, 40).astype(np.uint8)).save(buffer, "PNG")
    members = {f"{i}.{kind}": content for i in range(3) for kind, content in {**sample(i), "depth.png": buffer.getvalue()}.items()}
    source = ShardSource(write_tar(tmp_path / "one.tar", members), tmp_path / "cache")
    with pytest.warns(EightBitWarning) as caught:
        read_ids(source, ("rgb", "depth"))
    assert len(caught) == 1


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 2])


def cut_at_a_member(path: Path) -> None:
    with tarfile.open(path) as tar:
        end = tar.getmembers()[-1].offset
    path.write_bytes(path.read_bytes()[:end])


def overwrite(path: Path) -> None:
    with tarfile.open(path) as tar:
        start = tar.getmembers()[3].offset
    content = bytearray(path.read_bytes())
    content[start : start + 512] = b"x" * 512
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "unexpected end of data|cut off"),
        (cut_at_a_member, "cut off"),
        (overwrite, "damaged"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"\x1f\x8b" + b"0" * 600), "gzip"),
        (lambda path: path.write_bytes(b"<html>" * 200), "header"),
    ],
)
def test_a_shard_that_cannot_be_read_is_named(shards: Path, tmp_path: Path, damage: object, message: str) -> None:
    damage(shards / "001.tar")  # type: ignore[operator] - a function
    with pytest.raises(DataFolderError, match=rf"001\.tar.*({message})"):
        len(ShardSource(shards, tmp_path / "cache"))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{000..005}.tar", "003.tar"),
        ("9*.tar", "9"),
        ("{a}.tar", "range"),
        ("ftp://host/000.tar", "scheme"),
        ("https://host/*.tar", "cannot be searched"),
    ],
)
def test_shards_that_are_not_there_are_named(shards: Path, tmp_path: Path, pattern: str, message: str) -> None:
    with pytest.raises(DataFolderError, match=message):
        len(ShardSource(pattern if "://" in pattern else str(shards / pattern), tmp_path / "cache"))


def test_names_are_expanded_in_order(shards: Path) -> None:
    names = [str(shards / f"{i:03d}.tar") for i in range(3)]
    assert expand_shards(shards) == expand_shards(f"{shards}/*.tar") == expand_shards(f"{shards}/{{000..002}}.tar") == names
    assert expand_shards([names[2], names[0]]) == [names[2], names[0]]
    assert expand_shards("https://a/{x,y}/{8..11}.tar?t=1")[:3] == [f"https://a/x/{i}.tar?t=1" for i in (8, 9, 10)]
    assert expand_shards("https://a/{09..10}.tar") == ["https://a/09.tar", "https://a/10.tar"]
    with pytest.raises(DataFolderError, match="2 times"):
        expand_shards([names[0], shards])


def test_a_folder_of_shards_is_known_from_one_of_pictures(shards: Path) -> None:
    assert all(map(holds_shards, (str(shards), f"{shards}/{{000..002}}.tar", "https://a/b")))
    (shards / "a.JPG").touch()
    assert not holds_shards(str(shards))
    Manifest((), 0, 0, {}, ("rgb",)).save(shards)
    assert holds_shards(str(shards))


def test_ids_are_unique_where_names_of_shards_repeat(tmp_path: Path) -> None:
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        write_shard(tmp_path / part / "0.tar", 0, 1)
    source = ShardSource(f"{tmp_path}/{{a,b}}/0.tar", tmp_path / "cache")
    assert [source.id_of(row) for row in range(2)] == ["a/0/00000", "b/0/00000"]


def test_contents_stay_when_shards_are_moved_and_change_with_them(shards: Path, tmp_path: Path) -> None:
    before = ShardSource(shards, tmp_path / "cache").contents(("rgb", "depth"))
    assert set(before) == {"captions", "rgb", "depth"}
    moved = shards.rename(tmp_path / "moved")
    assert ShardSource(moved, tmp_path / "other").contents(("rgb", "depth")) == before
    write_shard(moved / "001.tar", 3, 3)
    assert ShardSource(moved, tmp_path / "other").contents(("rgb",))["rgb"] != before["rgb"]


def test_written_shards_are_read_by_their_index_and_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "built"
    folder.mkdir()
    with ShardWriter(folder / "0.tar") as writer:
        for i in range(3):
            writer.add(key_of(f"a.b/{i}" + "ü" * 100), {**sample(i), "json": as_json(caption="c")})
    facts = writer.facts("0.tar")
    assert facts.sha256 == hashlib.sha256((folder / "0.tar").read_bytes()).hexdigest()
    with tarfile.open(folder / "0.tar") as tar:
        assert len(tar.getmembers()) == 12
    manifest = Manifest((facts,), 3, 3, {}, ("rgb", "depth"), depth_near_m=0.5)
    manifest.save(folder)
    source = ShardSource(folder, tmp_path / "cache")
    assert len({source.read(row, ("rgb", "depth")).id for row in range(len(source))}) == 3
    assert source.depth_near_m == 0.5
    assert not (tmp_path / "cache").exists()
    made = ShardSource(write_tar(tmp_path / "x.tar", {}).with_name("built") / "0.tar", tmp_path / "cache")
    assert source.contents(("rgb",)) == made.contents(("rgb",))
    (folder / f"0.tar{INDEX_SUFFIX}").unlink()
    again = ShardSource(folder, tmp_path / "cache")
    assert [again.id_of(row) for row in range(3)] == [source.id_of(row) for row in range(3)]
    write_shard(folder / "0.tar", 0, 2)
    with pytest.raises(DataFolderError, match=r"0\.tar.*manifest"):
        ShardSource(folder, tmp_path / "cache").read(0, ("rgb",))


def test_sizes_of_another_programs_pictures_are_read_when_they_are_asked_for_and_kept(tmp_path: Path) -> None:
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 32)).save(turned, "JPEG", exif=exif)
    members = {f"{i}.txt": b"a" for i in range(5)}
    members |= {"0.jpg": picture(), "1.rgb.png": picture(0, (7, 9), "PNG"), "2.jpg": turned.getvalue(), "3.jpg": b"no picture"}
    shard, cache = write_tar(tmp_path / "one.tar", members), tmp_path / "cache"
    source = ShardSource(shard, cache)
    contents, (index,) = source.contents(("rgb",)), (cache / "indexes").iterdir()
    before = index.read_bytes()
    source.id_of(0)
    assert index.read_bytes() == before
    sizes = [(32, 40), (9, 7), (40, 32), None, None]
    assert [source.size_of(row) for row in range(5)] == sizes
    (index,) = (cache / "indexes").iterdir()
    made = index.stat().st_mtime_ns
    again = ShardSource(shard, cache)
    assert [again.size_of(row) for row in range(5)] == sizes
    assert index.stat().st_mtime_ns == made
    assert again.contents(("rgb",)) == contents
    assert tuple(again.read(2, ("rgb",)).maps["rgb"].shape[-2:]) == sizes[2]


def test_sizes_of_our_own_pictures_stand_in_the_index(tmp_path: Path) -> None:
    folder, cache = tmp_path / "built", tmp_path / "cache"
    folder.mkdir()
    with ShardWriter(folder / "0.tar") as writer:
        for i in range(3):
            writer.add(str(i), {"depth.png": depth_png(i), "jpg": picture(i, (40 + i, 32)), "json": as_json(caption="c")})
    Manifest((writer.facts("0.tar"),), 3, 3, {}, ("rgb", "depth")).save(folder)
    assert [ShardSource(folder, cache).size_of(row) for row in range(3)] == [(32, 40), (32, 41), (32, 42)]
    assert not cache.exists()
    with serving_folder(folder) as address:
        assert ShardSource(f"{address}/0.tar", cache).size_of(2) == (32, 42)
    assert not (cache / "shards").exists()
    (folder / f"0.tar{INDEX_SUFFIX}").unlink()
    assert ShardSource(folder, cache).size_of(2) == (32, 42)


def test_a_manifest_of_another_program_is_none(shards: Path, tmp_path: Path) -> None:
    (shards / "manifest.json").write_text(json.dumps({"shards": 3}))
    assert len(ShardSource(shards, tmp_path / "cache")) == 6


def read_ids(source: ShardSource, modalities: tuple[str, ...] = ("rgb",)) -> list[tuple[str, float]]:
    return [(source.id_of(row), float(source.read(row, modalities).maps["rgb"].sum())) for row in range(len(source))]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_read_what_their_parent_reads(shards: Path, tmp_path: Path, method: str) -> None:
    torch.set_num_threads(1)
    source = ShardSource(shards, tmp_path / "cache")
    expected = read_ids(source)
    assert read_ids(pickle.loads(pickle.dumps(source))) == expected
    if method == "spawn":
        code = "import pickle, sys; from tests.data.test_shards import read_ids; print(read_ids(pickle.load(sys.stdin.buffer)))"
        run = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(source), capture_output=True, check=True)
        assert run.stdout.decode().strip() == str(expected)
        return
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(read_ids, [source] * 4) == [expected] * 4
        assert read_ids(source) == expected


def test_a_forked_worker_opens_its_own_files(shards: Path, tmp_path: Path) -> None:
    source = ShardSource(shards, tmp_path / "cache")
    source.read(0, ("rgb",))
    before = source._handles._opened
    child = os.fork()
    if child == 0:
        source.read(0, ("rgb",))
        os._exit(0 if source._handles._opened is not before else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_threads_share_a_source(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jointnet.data.shards._NUM_OPEN", 1)  # every reading closes the shard before
    source = ShardSource(shards, tmp_path / "cache")
    expected = [{kind: read().content for kind, read in source.files(row).items()} for row in range(6)]
    with ThreadPoolExecutor(8) as pool:
        rows = list(range(6)) * 20
        found = list(pool.map(lambda row: {kind: read().content for kind, read in source.files(row).items()}, rows))
    assert found == [expected[row] for row in rows]


@pytest.fixture
def server(shards: Path) -> Iterator[str]:
    with serving_folder(shards) as address:
        yield address


def test_shards_on_a_web_server_are_read_through_the_cache(server: str, shards: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    source = ShardSource(f"{server}/{{000..002}}.tar", cache)
    assert read_ids(source) == read_ids(ShardSource(shards, tmp_path / "other"))
    assert len(list((cache / "shards").iterdir())) == 3
    assert source.contents(("rgb",)) == ShardSource(shards, tmp_path / "other").contents(("rgb",))


def test_the_cache_keeps_to_its_limit(server: str, shards: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    limit = (shards / "001.tar").stat().st_size + 100
    source = ShardSource(f"{server}/{{000..002}}.tar", cache, cache_bytes=limit)
    for _ in range(2):
        assert len(read_ids(source)) == 6
        assert sum(path.stat().st_size for path in (cache / "shards").iterdir()) <= limit
    assert len(list((cache / "indexes").iterdir())) == 3
    with pytest.raises(DataFolderError, match="raise the limit"):
        len(ShardSource(f"{server}/001.tar", tmp_path / "small", cache_bytes=100))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_share_a_cache(server: str, shards: Path, tmp_path: Path) -> None:
    limit = (shards / "001.tar").stat().st_size + 100
    source = ShardSource(f"{server}/{{000..002}}.tar", tmp_path / "cache", cache_bytes=limit)
    expected = read_ids(ShardSource(shards, tmp_path / "other"))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(read_ids, [source] * 8, chunksize=1) == [expected] * 8


def test_a_shard_that_a_server_has_not_is_named(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jointnet.data.remote_files._PAUSE_S", 0.01)
    with pytest.raises(DataFolderError, match=r"007\.tar.*no such file"):
        len(ShardSource(f"{server}/007.tar", tmp_path / "cache"))
    with pytest.raises(DataFolderError, match=r"cannot read 'http://127\.0\.0\.1:9/"):
        len(ShardSource("http://127.0.0.1:9/007.tar", tmp_path / "cache"))


@pytest.mark.slow  # its server is a large package, of make test-slow
def test_shards_on_s3(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store = s3fs.S3FileSystem(skip_instance_cache=True)
        store.mkdir("data")
        for path in sorted(shards.iterdir()):
            store.put_file(str(path), f"data/train/{path.name}")
        expected = read_ids(ShardSource(shards, tmp_path / "other"))
        for pattern in ("s3://data/train/{000..002}.tar", "s3://data/train/*.tar", "s3://data/train/"):
            assert read_ids(ShardSource(pattern, tmp_path / "cache")) == expected
        with pytest.raises(DataFolderError, match=r"s3://data/train/9\.tar"):
            len(ShardSource("s3://data/train/9.tar", tmp_path / "cache"))
    finally:
        server.stop()


MEASURE = """
import resource, sys
from jointnet.data.shards import ShardSource
source = ShardSource(sys.argv[1], sys.argv[2])
n = len(source)
for row in range(0, n, max(n // 200, 1)):
    source.id_of(row), source.files(row)
print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    """Peak memory of a process that indexes 100,000 samples, then of one that reads of them, against 1,000."""
    for num_shards in (1, 100):
        folder = tmp_path / str(num_shards)
        folder.mkdir()
        first = write_tar(folder / "000.tar", {f"{i:06d}.{kind}": b"x" for i in range(1000) for kind in ("jpg", "txt", "depth.png")})
        for number in range(1, num_shards):
            os.link(first, folder / f"{number:03d}.tar")
    peaks = {}
    for num_shards in (1, 100):
        for time in ("indexing", "reading"):
            command = [sys.executable, "-c", MEASURE, str(tmp_path / str(num_shards)), str(tmp_path / f"cache{num_shards}")]
            count, peak = map(int, subprocess.run(command, capture_output=True, check=True).stdout.split())
            assert count == 1000 * num_shards
            peaks[num_shards, time] = peak
    for time in ("indexing", "reading"):
        assert peaks[100, time] < peaks[1, time] + 10_000, peaks  # KiB
