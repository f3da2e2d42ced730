"""Bad input gets one line, exit code 2, before anything heavy is imported, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jointnet.cli.main import main
from jointnet.pipelines.joint_net import JointNetPipeline
from tests.conftest import tiny_pipeline


def picture(path: Path, size: tuple[int, int] = (32, 32), **options: Any) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(path, **options)
    return path


def depth(path: Path, size: tuple[int, ...] = (32, 32)) -> Path:
    np.save(path, np.random.default_rng(0).uniform(0.2, 1, size).astype(np.float32))
    return path


def mask(path: Path, value: int = 255, size: tuple[int, int] = (32, 32)) -> Path:
    pixels = np.zeros(size, np.uint8)
    pixels[4:8, 4:8] = value
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a picture, its depth and a mask."""
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "i.png")
    depth(tmp_path / "d.npy")
    mask(tmp_path / "m.png")
    return tmp_path


def refusal(words: list[str], capsys: pytest.CaptureFixture[str], place: Path) -> str:
    """Run a command that is refused and changes nothing; return its line."""
    before = sorted((str(p), p.lstat().st_mtime_ns) for p in place.rglob("*"))
    capsys.readouterr()
    assert main(words) == 2, words
    assert sorted((str(p), p.lstat().st_mtime_ns) for p in place.rglob("*")) == before
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1, printed.err
    return printed.err.strip()


HEAVY = "import sys; from jointnet.cli.main import main; code = main(sys.argv[1:]); print(code, {'torch', 'diffusers'} & set(sys.modules))"

EMPTY = {
    "output": ["generate", "a", "-o", ""],
    "picture": ["predict", "", "-o", "o"],
    "one of several": ["predict", "i.png", "", "-o", "o"],
    "map": ["condition", "", "a", "-o", "o"],
    "further map": ["condition", "d.npy", "", "--prompt", "a", "-o", "o"],
    "image": ["refine", "--image", "", "--depth", "d.npy", "-o", "o"],
    "depth": ["refine", "--image", "i.png", "--depth", "", "-o", "o"],
    "mask": ["edit", "--image", "i.png", "--depth", "d.npy", "--mask", "", "-o", "o"],
    "photo": ["panorama", "a", "--image", "", "-o", "o"],
    "low": ["generate", "a", "--low-res", "", "-o", "o"],
    "model": ["generate", "a", "--model", "", "-o", "o"],
    "base": ["generate", "a", "--model", "i.png", "--base", "", "-o", "o"],
    "mesh": ["mesh", "i.png", "d.npy", "-o", ""],
    "info": ["info", ""],
    "scene": ["demo", "scene", "-o", ""],
    "work": ["demo", "evaluate", "--work", ""],
    "release": ["convert", "release", "", "--base", "b", "-o", "o"],
    "base of a release": ["convert", "release", "r", "--base", "", "-o", "o"],
    "to release": ["convert", "to-release", "", "-o", "o"],
    "start": ["train", "stage1", "--from", "", "--data", ".", "-o", "o"],
    "data": ["train", "stage1", "--from", "demo-base", "--data", "", "-o", "o"],
}


@pytest.mark.parametrize("kind", EMPTY)
def test_an_empty_path_is_refused(kind: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is not the current folder, which is written with a dot."""
    line = refusal(EMPTY[kind], capsys, place)
    assert "got ''" in line
    assert "expected" in line


def test_the_current_folder_may_be_named(place: Path) -> None:
    assert main(["demo", "scene", "--size", "32", "-o", "."]) == 0
    assert (place / "result.json").exists()


@pytest.mark.parametrize("name", ["i", "i.png", "i.npy", "i.exr"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_regular_file_is_not_waited_for(kind: str, name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = place / "in" / name
    path.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    for words in (
        ["predict", str(path)],
        ["condition", str(path), "a"],
        ["refine", "--image", "i.png", "--depth", str(path)],
        ["edit", "--image", "i.png", "--depth", "d.npy", "--mask", str(path)],
        ["panorama", "--image", str(path)],
        ["panorama", "--image", "i.png", "--depth", str(path)],
    ):
        assert "no regular file" in refusal([*words, "-o", "o"], capsys, place)
    assert "no regular file" in refusal(["mesh", str(path), "d.npy", "-o", "x.glb"], capsys, place)
    assert "no regular file" in refusal(["mesh", "i.png", str(path), "-o", "x.glb"], capsys, place)


def test_a_pipe_is_not_replaced_by_a_mesh(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(place / "x.glb")
    assert "pipe" in refusal(["mesh", "i.png", "d.npy", "-o", "x.glb"], capsys, place)


@pytest.mark.parametrize("name", ["notes", "notes.txt", "notes.png"])
def test_a_text_is_called_no_picture(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / name).write_text("Größe: 3 m\n" * 200)
    for words in (["predict", name, "-o", "o"], ["mesh", name, "d.npy", "-o", "x.glb"], ["panorama", "--image", name, "-o", "o"]):
        assert f"cannot read '{name}' as a picture: it is a text" in refusal(words, capsys, place)
    assert "as a picture: it is an array" in refusal(["predict", "d.npy", "-o", "o"], capsys, place)


CLASHES = {
    "refine": ["refine", "--image", "i.png", "--depth", "small.npy", "-o", "o"],
    "edit": ["edit", "--image", "i.png", "--depth", "small.npy", "--mask", "m.png", "-o", "o"],
    "mask": ["edit", "--image", "i.png", "--depth", "d.npy", "--mask", "small.png", "-o", "o"],
    "a mask of one": ["edit", "--image", "i.png", "--depth", "d.npy", "--depth-mask", "small.png", "--image-mask", "m.png", "-o", "o"],
    "panorama": ["panorama", "--image", "i.png", "--depth", "small.npy", "-o", "o"],
    "condition": ["condition", "--depth", "d.npy", "--normal", "n.npy", "--model", "demo-rgbdn", "-o", "o"],
    "turned": ["refine", "--image", "turned.jpg", "--depth", "wide.npy", "-o", "o"],
}


@pytest.mark.parametrize("kind", [*CLASHES, "black", "black array", "mask without map", "normals"])
def test_what_does_not_belong_together_is_refused_before_anything_heavy(kind: str, place: Path) -> None:
    depth(place / "small.npy", (16, 32))
    depth(place / "wide.npy", (32, 64))
    depth(place / "n.npy", (16, 16, 3))
    mask(place / "small.png", size=(16, 32))
    mask(place / "black.png", 0)
    np.save(place / "black.npy", np.zeros((32, 32), np.float32))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(place / "turned.jpg", (32, 64), exif=exif.tobytes())
    edit = ["edit", "--image", "i.png", "--depth", "d.npy", "-o", "o"]
    more = {
        "black": [*edit, "--mask", "black.png"],
        "black array": [*edit, "--depth-mask", "black.npy"],
        "mask without map": [*edit, "--normal-mask", "m.png"],
        "normals": ["refine", "--image", "i.png", "--normal", "n.npy", "-o", "o"],
    }
    words = CLASHES.get(kind) or more[kind]
    done = subprocess.run([sys.executable, "-c", HEAVY, *words], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "2 set()\n", done
    assert len(done.stderr.strip().splitlines()) == 1
    expected = {"mask without map": "expected the map to each mask", "normals": "for a model of rgb, depth"}
    expected |= dict.fromkeys(("black", "black array"), "got masks without a hole")
    assert expected.get(kind, "expected one size") in done.stderr
    assert not (place / "o").exists()


@pytest.mark.parametrize("kind", ["size", "hole", "grey"])
def test_what_only_the_content_tells_is_refused_before_the_model_is_opened(
    kind: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was opened")

    monkeypatch.setattr("jointnet.cli.inputs.open_model", refuse)
    np.savez(place / "d.npz", np.random.default_rng(0).uniform(0.2, 1, (16, 32)).astype(np.float32))
    np.savez(place / "black.npz", np.zeros((32, 32), np.uint8))
    mask(place / "grey.png", 100)
    words = {
        "size": ["edit", "--image", "i.png", "--depth", "d.npz", "--mask", "m.png"],
        "hole": ["edit", "--image", "i.png", "--depth", "d.npy", "--mask", "black.npz"],
        "grey": ["edit", "--image", "i.png", "--depth", "d.npy", "--mask", "grey.png"],
    }[kind]
    line = refusal([*words, "-o", "o"], capsys, place)
    assert ("expected one size" if kind == "size" else "got masks without a hole") in line


def test_of_several_inputs_a_clash_of_sizes_is_one_inputs(place: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("images", "depths"):
        (place / folder).mkdir()
    for name, size in (("a", (32, 32)), ("b", (16, 16))):
        picture(place / "images" / f"{name}.png")
        depth(place / "depths" / f"{name}.npy", size)
    words = ["refine", "--image", "images", "--depth", "depths", "--model", str(model_folder), "--steps", "1", "-o", "o"]
    assert main(words) == 2
    error, summary = capsys.readouterr().err.strip().splitlines()
    assert "b.png: got image of 32x32 px, depth of 16x16 px; expected one size" in error
    assert summary.endswith("1 of 2 done; failed: b.png")


@pytest.mark.parametrize("kind", ["stride", "size", "folder", "depth"])
def test_an_error_takes_the_place_of_the_warnings_before_it(kind: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a picture that is not of a small model's world, of unknown words, of depth in 8 bits."""
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(place / "model")
    (place / "model" / "vocabulary.json").write_text(json.dumps({"words": ["a"]}))
    Image.fromarray(np.random.default_rng(0).integers(50, 200, (32, 32), np.uint8)).save(place / "d8.png")
    words = {
        "stride": ["predict", "i.png", "--prompt", "zebra", "--stride", "7"],
        "size": ["panorama", "zebra", "--image", "i.png", "--size", "33x64"],
        "folder": ["edit", "--image", "i.png", "--depth", "d8.png", "--mask", "m.png", "--resample", "3", "--low-res", "low"],
        "depth": ["edit", "zebra", "--image", "i.png", "--depth", "d8.png", "--mask", "grey.npz"],
    }[kind]
    (place / "low").mkdir()
    picture(place / "low" / "image.png", (16, 16))
    depth(place / "low" / "depth.npy", (16, 16))
    np.savez(place / "grey.npz", np.full((32, 32), 0.2))
    refusal([*words, "--model", "model", "-o", "o"], capsys, place)


def test_warnings_are_shown_once_the_work_has_begun(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(place / "model")
    (place / "model" / "vocabulary.json").write_text(json.dumps({"words": ["a"]}))
    run, seen = JointNetPipeline.run, []

    def run_and_look(pipe: JointNetPipeline, request: Any) -> Any:
        capsys.readouterr()
        result = run(pipe, request)
        seen.append(capsys.readouterr().err)
        return result

    monkeypatch.setattr(JointNetPipeline, "run", run_and_look)
    assert main(["predict", "i.png", "--prompt", "zebra", "--model", "model", "--steps", "1", "-o", "o"]) == 0
    assert [line[:8] for line in seen[0].splitlines()] == ["warning:", "warning:"]
    assert capsys.readouterr().err == ""
