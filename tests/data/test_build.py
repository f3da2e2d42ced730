"""jointnet data build in one process: what is taken, what is dropped and counted, what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jointnet.cli.main import main
from jointnet.data.build.duplicates import duplicate_rows
from jointnet.data.shard_writer import key_of
from jointnet.data.shards import ShardSource
from tests.data.builds import QUICK, ids_of, manifest_of
from tests.data.builds_labels import FAILS
from tests.data.folders import three_samples
from tests.data.shard_files import as_json, picture, write_tar
from tests.data.web import Pictures, serving_pictures, smooth, write_links

BAD = {
    "gone": "HTTP 404",
    "slow": "timed out",
    "page": "content type of no picture",
    "lie": "no JPEG, PNG or WebP",
    "truncated": "truncated picture",
    "bomb": "picture of too many pixels",
    "empty": "truncated picture",
    "small": "picture too small",
    "loop": "too many redirects",
    "down": "HTTP 500",
}


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, type[Pictures]]]:
    with serving_pictures() as found:
        yield found


def build(*words: str | Path) -> int:
    return main(["data", "build", *map(str, words), "--workers", "0"])


def test_links_become_shards_and_every_drop_is_counted(server: tuple[str, type[Pictures]], tmp_path: Path) -> None:
    address, _ = server
    urls = [f"{address}/{name}" for name in BAD] + [f"{address}/good/{i}" for i in range(5)] + [f"{address}/moved/9", None, "ftp://a/b"]
    links = write_links(tmp_path / "links.parquet", urls)
    assert build(links, "-o", tmp_path / "out", "--rows-per-shard", "4", *QUICK) == 0
    ids = ids_of(tmp_path / "out", tmp_path / "cache")
    assert ids == [str(1000 + i) for i in range(len(BAD), len(BAD) + 6)]
    manifest = manifest_of(tmp_path / "out")
    expected = {reason: list(BAD.values()).count(reason) for reason in BAD.values()}
    assert dict(manifest.dropped) == {**expected, "no url": 1, "scheme not http or https": 1}
    assert (manifest.rows, manifest.modalities) == (18, ("rgb",))


def test_pictures_keep_their_bytes_and_say_where_they_come_from(server: tuple[str, type[Pictures]], tmp_path: Path) -> None:
    links = write_links(tmp_path / "links.parquet", [f"{server[0]}/good/{i}" for i in range(3)])
    assert build(links, "-o", tmp_path / "out", *QUICK) == 0
    source = ShardSource(tmp_path / "out", tmp_path / "cache")
    files = source.files(1)
    assert files["jpg"]().content == smooth(1)
    facts = json.loads(files["json"]().content)
    assert (facts["caption"], facts["url"], facts["id"]) == ("picture 1", f"{server[0]}/good/1", "1001")
    assert (facts["width"], facts["height"], facts["original_width"]) == (40, 36, 40)


def test_rows_are_filtered_by_the_papers_limits_before_anything_is_downloaded(server: tuple[str, type[Pictures]], tmp_path: Path) -> None:
    address, handler = server
    before = handler.requests.total()
    nan = float("nan")
    columns = {
        "width": [512, 513, 1024, 1024, 1024, 1024, 1024],
        "height": [1024, 512, 1024, 1024, 1024, 1024, None],
        "watermark_score": [0.1, 0.1, 0.5, 0.1, nan, 0.1, 0.1],
        "aesthetic_score_laion_v2": [6.0, 6.0, 6.0, 5.0, 6.0, None, 6.0],
    }
    links = write_links(tmp_path / "links.parquet", [f"{address}/good/{i}" for i in range(7)], **columns)
    assert build(links, "-o", tmp_path / "out", "--allow-private") == 2
    assert handler.requests.total() == before
    reports = [json.loads(path.read_bytes()) for path in (tmp_path / "out" / "units").glob("*.json")]
    assert [report["dropped"] for report in reports] == [{"filter: size": 3, "filter: watermark": 2, "filter: aesthetic score": 2}]
    assert build(links, "-o", tmp_path / "all", *QUICK, "--max-watermark", "0.6", "--filters", "none") == 0
    assert manifest_of(tmp_path / "all").dropped == {"filter: size": 1, "filter: watermark": 1}


def test_loopback_is_refused_unless_it_is_allowed(
    server: tuple[str, type[Pictures]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, handler = server
    before = handler.requests.total()
    links = write_links(tmp_path / "links.parquet", [f"{address}/good/1"])
    assert build(links, "-o", tmp_path / "out", *[word for word in QUICK if word != "--allow-private"]) == 2
    assert "got no sample out of 1 rows: 1 address not public" in capsys.readouterr().err
    assert handler.requests.total() == before


def test_large_pictures_are_shrunk_and_say_how_large_they_were(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(1, (120, 80), "PNG"))
    (folder / "a.txt").write_text("a box\nboxes\n")
    assert build(folder, "-o", tmp_path / "out", "--shorter-side", "40") == 0
    source = ShardSource(tmp_path / "out", tmp_path / "cache")
    sample = source.read(0, ("rgb",))
    assert (tuple(sample.maps["rgb"].shape), sample.original_size, sample.captions) == ((3, 40, 60), (80, 120), ("a box", "boxes"))
    assert build(tmp_path / "out", "-o", tmp_path / "again", "--cache", tmp_path / "cache") == 0
    assert ShardSource(tmp_path / "again", tmp_path / "cache").read(0, ("rgb",)).original_size == (80, 120)


def test_a_folder_is_taken_over_with_its_maps_and_labelled(tmp_path: Path) -> None:
    three_samples(tmp_path / "data")
    words = [tmp_path / "data", "--maps", "depth", "--label", "normal=tests.data.builds_labels:towards_camera", "-o", tmp_path / "out"]
    assert build(*words) == 0
    manifest = manifest_of(tmp_path / "out")
    assert (manifest.samples, manifest.modalities, set(manifest.labelers)) == (3, ("rgb", "depth", "normal"), {"normal"})
    assert ids_of(tmp_path / "out", tmp_path / "cache") == [key_of(f"{i}.png") for i in range(3)]
    source = ShardSource(tmp_path / "out", tmp_path / "cache")
    read = source.read(1, ("rgb", "depth", "normal"))
    stored = torch.from_numpy(np.load(tmp_path / "data" / "1.depth.npy"))
    assert (read.maps["depth"][0] - stored).abs().max() < 1e-5
    assert torch.equal(read.maps["normal"][2], torch.ones(32, 40))
    assert sorted(source.files(1)) == ["depth.png", "json", "normal.npy", "png"]


def test_labels_of_links_are_16_bit_maps_of_the_picture(server: tuple[str, type[Pictures]], tmp_path: Path) -> None:
    links = write_links(tmp_path / "links.parquet", [f"{server[0]}/good/{i}" for i in range(5)] + [f"{server[0]}/gone"])
    assert build(links, "--label", "depth=tests.data.labelers.own:red", "-o", tmp_path / "out", "--rows-per-shard", "3", *QUICK) == 0
    assert sorted(ids_of(tmp_path / "out", tmp_path / "cache")) == [str(1000 + i) for i in range(5)]
    source = ShardSource(tmp_path / "out", tmp_path / "cache")
    for row in range(5):
        read = source.read(row, ("rgb", "depth"))
        assert (read.maps["depth"] - read.maps["rgb"][:1]).abs().max() < 1e-4
        with Image.open(io.BytesIO(source.files(row)["depth.png"]().content)) as image:
            assert image.mode.startswith("I;16")


def test_maps_that_a_reader_would_refuse_are_dropped(server: tuple[str, type[Pictures]], tmp_path: Path) -> None:
    links = write_links(tmp_path / "links.parquet", [f"{server[0]}/good/{i}" for i in range(3)])
    assert build(links, "--label", "depth=tests.data.builds_labels:flat_at_first", "-o", tmp_path / "out", *QUICK) == 0
    assert manifest_of(tmp_path / "out").dropped == {"labeler: unusable depth map": 1}


@pytest.mark.parametrize("name", FAILS)
def test_a_labeler_that_fails_ends_a_build_with_one_line(
    name: str, server: tuple[str, type[Pictures]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    links = write_links(tmp_path / "links.parquet", [f"{server[0]}/good/{i}" for i in range(3)])
    assert build(links, "--label", f"depth=tests.data.builds_labels:{name}", "-o", tmp_path / "out", *QUICK) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert FAILS[name] in line
    assert "(builds_labels.py, line " in line
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_same_id_twice_is_dropped_wherever_it_stands(server: tuple[str, type[Pictures]], tmp_path: Path) -> None:
    folder, (address, handler) = tmp_path / "links", server
    folder.mkdir()
    before = handler.requests.total()
    write_links(folder / "0.parquet", [f"{address}/good/{i}" for i in range(5)], id=[1, 1, 2, 3, None])
    write_links(folder / "1.parquet", [f"{address}/good/{i}" for i in range(4)], id=["3", "4", "1", "0-4"])
    assert build(folder, "-o", tmp_path / "out", "--rows-per-shard", "2", *QUICK) == 0
    assert manifest_of(tmp_path / "out").dropped == {"duplicate": 4}
    assert ids_of(tmp_path / "out", tmp_path / "cache") == ["1", "2", "3", "0-4", "4"]
    assert handler.requests.total() - before == 5


def test_duplicates_are_found_among_many_rows_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jointnet.data.build.duplicates._FILE_ROWS", 300)
    ids = [str(number) for number in np.random.default_rng(0).integers(0, 3000, 5000)]
    seen, expected = set[str](), []
    for row, id_ in enumerate(ids):
        expected += [row] if id_ in seen else []
        seen.add(id_)
    batches = [ids[start : start + 700] for start in range(0, len(ids), 700)]
    assert duplicate_rows(batches, len(ids), tmp_path).tolist() == expected
    assert duplicate_rows([], 10, tmp_path).tolist() == []
    assert list(tmp_path.iterdir()) == []


def test_shards_are_filtered_into_new_shards(tmp_path: Path) -> None:
    members = {"a.jpg": picture(1, (40, 40)), "a.txt": b"a", "b.jpg": picture(2, (20, 40)), "b.txt": b"b", "c.txt": b"c"}
    shard = write_tar(tmp_path / "one.tar", members)
    assert build(shard, "-o", tmp_path / "out", "--min-side", "30", "--cache", tmp_path / "cache") == 0
    assert manifest_of(tmp_path / "out").dropped == {"picture too small": 1, "no picture": 1}
    assert ids_of(tmp_path / "out", tmp_path / "cache") == [key_of("one/a")]


def test_a_finished_build_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    three_samples(tmp_path / "data")
    assert build(tmp_path / "data", "-o", tmp_path / "out", "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["rows"], first["samples"], first["dropped"]) == (3, 3, {})
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar*")}
    assert len(before) == 2
    assert build(tmp_path / "data", "-o", tmp_path / "out", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == first
    assert "unit" not in captured.err
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="parquet files need pyarrow, of the extra data")
    from pyarrow import parquet

    out = tmp_path / "out"
    links, empty, damaged = (
        write_links(tmp_path / "links.parquet", ["http://a/b"]),
        tmp_path / "empty.parquet",
        tmp_path / "damaged.parquet",
    )
    write_links(empty, [])
    damaged.write_bytes(links.read_bytes()[:-9])
    bare = tmp_path / "bare.parquet"
    parquet.write_table(pyarrow.table({"url": ["http://a/b"], "text": ["a"]}), bare)
    nameless = tmp_path / "nameless.parquet"
    parquet.write_table(pyarrow.table({"link": ["http://a/b"]}), nameless)
    (tmp_path / "nothing").mkdir()
    photos = three_samples(tmp_path / "photos")
    cases: list[tuple[list[str | Path], str]] = [
        ([bare], "got no column width, height, watermark_score, aesthetic_score_laion_v2 in"),
        ([nameless, "--filters", "none"], "got no column url, text in"),
        ([empty], "without a row"),
        ([damaged], "as parquet"),
        ([tmp_path / "absent.parquet"], "cannot read"),
        ([tmp_path / "absent*.parquet"], "stands for no .parquet file"),
        ([tmp_path / "absent"], "check the path"),
        (["ftp://host/links.parquet"], "scheme 'ftp'"),
        (["gopher://host/"], "scheme 'gopher'"),
        ([tmp_path / "nothing"], "got no picture"),
        ([photos, "--min-aesthetic", "5"], "leave it out"),
        ([photos, "--maps", "heat"], "heat"),
        ([links, "--maps", "depth"], "label its pictures instead"),
        ([photos, "--label", "depth=nobody"], "nobody"),
        ([photos, "--label", "depth=tests.data.labelers.own:red", "--label", "depth=tests.data.labelers.own:red"], "two labelers of depth"),
        ([photos, "--maps", "depth", "--label", "depth=tests.data.labelers.own:red"], "leave out one of them"),
        ([photos, "--rate", "0"], "expected a number"),
    ]
    for words, expected in cases:
        assert build(*words, "-o", out) == 2, words
        error = capsys.readouterr().err
        assert expected in error, words
        assert error.count("\n") == 1, error
        assert not out.exists(), words
    assert build(photos, "-o", photos / "shards") == 2
    assert not (photos / "shards").exists()


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, other = three_samples(tmp_path / "photos"), tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    assert build(photos, "-o", other) == 2
    assert "which holds something else" in capsys.readouterr().err
    assert [path.name for path in other.iterdir()] == ["notes.txt"]


def test_another_build_in_the_same_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = three_samples(tmp_path / "photos")
    assert build(photos, "-o", tmp_path / "out") == 0
    assert build(photos, "-o", tmp_path / "out", "--shorter-side", "20") == 2
    assert "of a build with shorter_side 1024, not 20" in capsys.readouterr().err
    assert build(photos, "-o", tmp_path / "out", "--label", "depth=tests.data.labelers.own:red") == 2


def test_ten_thousand_filtered_rows_cost_no_memory_that_grows(tmp_path: Path) -> None:
    """Rows come from the file a batch at a time."""
    from jointnet.data.build.parquet_rows import ParquetRows
    from jointnet.data.build.rows import Unit

    links = write_links(tmp_path / "links.parquet", [f"http://a/{i}" for i in range(10_000)])
    rows = ParquetRows(str(links), ("width",))
    units = rows.units(3000)
    assert [unit.stop - unit.start for unit in units] == [3000, 3000, 3000, 1000]
    assert [row.id for row in rows.read(units[3])] == [str(1000 + i) for i in range(9000, 10_000)]
    assert next(rows.read(Unit(0, 0, 5000, 5001, 5000))).url == "http://a/5000"


def test_bytes_that_are_no_json_or_text_do_not_stop_a_build(tmp_path: Path) -> None:
    members = {
        "a.jpg": picture(1),
        "a.json": as_json(caption="a"),
        "b.jpg": picture(2),
        "b.json": b"{",
        "c.jpg": picture(3),
        "c.txt": b"\xff",
    }
    shard = write_tar(tmp_path / "one.tar", members)
    assert build(shard, "-o", tmp_path / "out", "--cache", tmp_path / "cache") == 0
    assert manifest_of(tmp_path / "out").dropped == {"captions not JSON": 1, "captions not UTF-8": 1}
