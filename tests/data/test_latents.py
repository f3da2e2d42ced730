"""Encoded samples on disk: made once, made anew where anything they depend on has changed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from jointnet.data import latents
from jointnet.data.bad_samples import BadSamples
from jointnet.data.folder import FolderSource
from jointnet.data.latents import LatentStore, Row
from jointnet.errors import DamagedFileWarning, DataFolderError, OutputError
from jointnet.training.encode import encode_source
from tests.conftest import tiny_pipeline
from tests.data.folders import three_samples

PAIR = ("rgb", "depth")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return three_samples(tmp_path / "data")


def encode(data: Path, folder: Path, *, size: int = 32, max_bad: float = 0.0) -> LatentStore:
    pipeline, source = tiny_pipeline(), FolderSource(data)
    store = LatentStore(folder, len(source), PAIR, f"{source.contents(PAIR)} at {size} by {pipeline.codec.fingerprint()}")
    encode_source(source, store, [(size, size)], None, pipeline.codec, {}, BadSamples(max_bad, len(source)))
    return store


def states(store: LatentStore, side: int = 16) -> torch.Tensor:
    return torch.stack([store.latents(row, 4, (side, side)) for row in range(len(store))])


def test_rows_come_back_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "CHUNK", 2)
    store = LatentStore(tmp_path, 3, PAIR, "numbers")
    rows = [Row(f"{i}.png", (f"caption {i} é",), (10, 20), (0, 5), (10, 10), (16, 16)) for i in range(2)]
    rows.append(Row("2.png", bad="truncated picture", message="got half of it"))
    values = [torch.randn(4, 2, 2).half(), torch.randn(4, 2, 6).half(), torch.empty(0)]
    for chunk in range(store.num_chunks):
        part = slice(2 * chunk, 2 * chunk + 2)
        assert not store.has(chunk)
        store.write(chunk, rows[part], dict.fromkeys(PAIR, values[part]))
        assert store.has(chunk)
    for one in (store, pickle.loads(pickle.dumps(store))):
        assert [one.row(i) for i in range(3)] == rows
        assert torch.equal(one.latents(1, 4, (2, 6))[1], values[1].float())
    assert not LatentStore(tmp_path, 3, PAIR, "other numbers").has(0)


@torch.no_grad()
def test_latents_are_those_of_the_middle_square(data: Path, tmp_path: Path) -> None:
    store, pipeline = encode(data, tmp_path / "latents"), tiny_pipeline()
    sample = FolderSource(data).read(1, PAIR)
    for place, name in enumerate(PAIR):
        expected = pipeline.codec.encode(name, sample.maps[name][None, :, :, 4:36])
        assert torch.allclose(states(store)[1, place], expected[0], atol=1e-2)  # kept in float16
    row = store.row(1)
    assert (row.original, row.corner, row.extent, row.size) == ((32, 40), (0, 4), (32, 32), (32, 32))
    assert row.captions == sample.captions


def test_latents_are_kept_until_what_they_depend_on_changes(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "latents"
    first = states(encode(data, folder))
    written = (folder / "00000.safetensors").stat().st_mtime_ns
    assert torch.equal(states(encode(data, folder)), first)
    assert (folder / "00000.safetensors").stat().st_mtime_ns == written
    assert not torch.equal(states(encode(data, folder, size=16), 8), first[..., :8, :8])
    Image.new("RGB", (40, 32)).save(data / "1.png")
    changed = states(encode(data, folder))
    assert torch.equal(changed[[0, 2]], first[[0, 2]])
    assert not torch.equal(changed[1, 0], first[1, 0])


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: (path.unlink(), path.symlink_to("/nowhere/latents")),
    ],
)
def test_damaged_latents_are_encoded_again_with_a_warning(damage: Callable[[Path], object], data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "latents"
    first = states(encode(data, folder))
    damage(folder / "00000.safetensors")
    with pytest.warns(DamagedFileWarning, match=r"00000\.safetensors' is damaged"):
        assert torch.equal(states(encode(data, folder)), first)
    assert torch.equal(states(encode(data, folder)), first)


def test_latents_that_cannot_be_written_are_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "latents").symlink_to("/nowhere/latents")
    with pytest.raises(OutputError, match="latents is a link to '/nowhere/latents', which is not there"):
        encode(data, tmp_path / "latents")


def test_bad_samples_are_left_out_up_to_the_limit(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = states(encode(data, tmp_path / "whole"))
    (data / "1.png").write_bytes((data / "1.png").read_bytes()[:99])
    with pytest.raises(DataFolderError, match=r"1 of 3 samples .*more than 10%: 1 truncated picture \(1\.png\), as .*--max-bad 34%"):
        encode(data, tmp_path / "latents", max_bad=0.1)
    assert not list((tmp_path / "latents").iterdir())
    store = encode(data, tmp_path / "latents", max_bad=0.5)
    assert "left out 1 of 3 samples: 1 truncated picture (1.png)" in capsys.readouterr().err
    assert store.row(1).bad == "truncated picture"
    assert torch.allclose(store.latents(2, 4, (16, 16)), whole[2], atol=1e-2)
