"""Names and contents that a command could take for something else: where results go, what is a prompt, what a folder holds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jointnet.cli.main import main
from jointnet.cli.matching import match_files, names_of
from tests.cli.test_bad_inputs import depth, mask, picture, refusal


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a picture, its depth and a mask."""
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    picture(place / "i.png")
    depth(place / "d.npy")
    mask(place / "m.png")
    return place


@pytest.mark.parametrize("name", ["...png", "..png"])
def test_a_result_stays_below_the_output_whatever_its_input_is_called(name: str, place: Path, model_folder: Path) -> None:
    picture(place / "x.png").rename(place / name)
    before = {path.name for path in place.iterdir()}
    assert main(["predict", "i.png", name, "--model", str(model_folder), "--steps", "1", "-o", "o"]) == 0
    assert {path.name for path in place.iterdir()} - before == {"o"}
    assert {path.name for path in (place / "o").iterdir()} == {"i", name}


def test_names_that_some_file_systems_take_for_one_are_distinct() -> None:
    forms = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    names = names_of([Path(f"{forms[0]}.png"), Path("x") / f"{forms[1]}.png", Path("STRASSE.png"), Path("x/straße.png")])
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == 4


@pytest.mark.parametrize(
    "words",
    [
        ["condition", "d.npy", "i.png"],
        ["condition", "d.npy", "d.npy"],
        ["panorama", "i.png"],
        ["generate", "i.png"],
        ["generate", "--prompt", "i.png"],
        ["predict", "i.png", "--prompt", "m.png"],
        ["edit", "--image", "i.png", "--depth", "d.npy", "--mask", "m.png", "i.png"],
        ["refine", "--image", "i.png", "--depth", "d.npy", "--prompt", "d.npy"],
    ],
)
def test_a_prompt_is_no_file(words: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal([*words, "-o", "o"], capsys, place)
    assert f"got the file {words[-1]!r}" in line
    assert "prompt" in line.lower()


def test_pictures_of_a_folder_are_not_its_maps(place: Path) -> None:
    data = place / "data"
    data.mkdir()
    for name in ("a.png", "b.jpg", "b.v2.png", "depth.png", "a.depth.png", "a.normal.png", "b.depth.tif"):
        picture(data / name)
    depth(data / "b.depth.npy")
    assert [each.first.name for each in match_files({"rgb": [data]})] == ["a.png", "b.jpg", "b.v2.png", "depth.png"]
    assert [each.first.name for each in match_files({"normal": [data]})] == ["a.normal.png", "b.jpg", "b.v2.png", "depth.png"]
    (data / "b.depth.tif").unlink()
    (data / "b.v2.png").unlink()
    (data / "depth.png").unlink()
    both = match_files({"rgb": [data], "depth": [data]})
    assert [(each.files["rgb"].name, each.files["depth"].name) for each in both] == [("a.png", "a.depth.png"), ("b.jpg", "b.depth.npy")]
    assert all(each.missing is None for each in both)


def test_of_a_result_each_map_is_taken_once(place: Path) -> None:
    assert main(["demo", "scene", "--size", "32", "-o", "scene"]) == 0
    picture(place / "scene" / "mine.png")
    scene = place / "scene"
    assert [each.first.name for each in match_files({"rgb": [scene]})] == ["image.png", "mine.png"]
    assert [each.first.name for each in match_files({"depth": [scene]})] == ["depth.npy", "mine.png"]


def test_the_data_folder_of_the_demo_is_taken_whole(place: Path) -> None:
    assert main(["demo", "scene", "--num", "2", "--size", "32", "-o", "data"]) == 0
    for kind, ending in (("rgb", ".png"), ("depth", ".depth.npy"), ("normal", ".normal.npy")):
        assert [each.first.name for each in match_files({kind: [place / "data"]})] == [f"{number:08d}{ending}" for number in range(2)]


def test_an_array_with_a_damaged_head_gets_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    depth(place / "e.npy")
    content = bytearray((place / "d.npy").read_bytes())
    content[content.index(b"}")] = ord(" ")
    (place / "d.npy").write_bytes(content)
    for words in (
        ["condition", "d.npy", "a", "-o", "o"],
        ["edit", "--image", "i.png", "--depth", "e.npy", "--mask", "d.npy", "-o", "o"],
        ["mesh", "i.png", "d.npy", "-o", "x.glb"],
        ["mesh", "i.png", "d.npy", "--depth-unit", "m", "-o", "x.glb"],
    ):
        assert "d.npy" in refusal(words, capsys, place)


def test_what_a_library_logs_of_a_damaged_picture_is_not_printed(place: Path) -> None:
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    image.save(place / "t.tif")
    content = (place / "t.tif").read_bytes()
    where = content.index((277).to_bytes(2, "little"))  # samples per pixel
    (place / "t.tif").write_bytes(content[: where + 8] + (2048).to_bytes(2, "little") + content[where + 10 :])
    command = [sys.executable, "-m", "jointnet", "predict", "t.tif", "-o", "o"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("file", "entry", "value"),
    [
        ("joint_unet/config.json", "unet_config", 0),
        ("joint_unet/config.json", "modalities", 3),
        ("joint_unet/config.json", "modalities", [["rgb"]]),
        ("vae/config.json", "block_out_channels", None),
        ("scheduler/scheduler_config.json", "prediction_type", {}),
        ("model_index.json", "depth_near_m", [1]),
    ],
)
def test_info_of_a_broken_config_gets_one_line_or_none(
    file: str, entry: str, value: Any, place: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model_folder, place / "model")
    path = place / "model" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), entry: value}))
    capsys.readouterr()
    code = main(["info", "model"])
    lines = capsys.readouterr().err.strip().splitlines()
    assert (code, len(lines)) in ((2, 1), (0, 0))
    if file != "scheduler/scheduler_config.json" and file != "model_index.json":
        assert code == 2
        assert "copy or save" in lines[0] or "save or fetch it again" in lines[0]
