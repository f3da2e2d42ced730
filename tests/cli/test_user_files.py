"""Commands delete, replace and misread nothing of the user's (the first point of the issue: K1, K2, K3 and their siblings)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from jointnet.cli.main import main
from jointnet.pipelines.joint_net import JointNetPipeline
from tests.conftest import tiny_pipeline

SHORT = ("--steps", "1", "--seed", "3")


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return path


def depth(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.random.default_rng(seed).uniform(0.2, 1, (32, 32)).astype(np.float32))
    return path


def held(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a model is a failure: the command should have refused before."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was opened")

    for module in ("inputs", "generate", "panorama"):
        monkeypatch.setattr(f"jointnet.cli.{module}.open_model", refuse)


def refused(words: list[str | Path], capsys: pytest.CaptureFixture[str], of: Path) -> str:
    """Run a command that must not change the folder ``of``; return its one line."""
    before = held(of)
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    assert held(of) == before
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    return error


def test_a_foreign_result_is_neither_believed_nor_replaced(no_model: None, model_folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    for name in ("holiday.jpg", "thesis.txt"):
        out.mkdir(exist_ok=True)
        (out / name).write_text("mine")
    (out / "result.json").write_text('{"status": "ok", "files": ["holiday.jpg", "thesis.txt"]}')
    image, disparity = picture(tmp_path / "a.png"), depth(tmp_path / "d.npy")
    model = ["--model", model_folder, "-o", out]
    commands: list[list[str | Path]] = [
        ["generate", "a ball", *model],
        ["predict", image, *model],
        ["condition", disparity, "a ball", *model],
        ["refine", "--image", image, "--depth", disparity, *model],
        ["edit", "--image", image, "--depth", disparity, "--mask", image, *model],
        ["panorama", "a ball", *model],
        ["demo", "scene", "-o", out],
    ]
    for command in commands:
        assert "with a result.json that is not ours; choose another with -o" in refused(command, capsys, tmp_path), command


def test_a_result_of_another_command_loses_no_file(tmp_path: Path, capsys: Any, model_folder: Path) -> None:
    scene, image = tmp_path / "scene", picture(tmp_path / "a.png")
    assert main(["demo", "scene", "--size", "32", "-o", str(scene)]) == 0
    normal = (scene / "normal.npy").read_bytes()
    assert "as an input, which the result would replace" in refused(["predict", scene / "image.png", "-o", scene], capsys, tmp_path)
    assert main(["predict", str(image), "--model", str(model_folder), *SHORT, "-o", str(scene)]) == 0
    assert (scene / "normal.npy").read_bytes() == normal
    assert main(["demo", "scene", "--size", "32", "--seed", "2", "-o", str(scene)]) == 0
    assert (scene / "normal.npy").read_bytes() != normal


@pytest.mark.parametrize("name", ["image.png", "depth.npy", "depth_preview.png", "result.json"])
def test_files_that_no_command_wrote_are_not_replaced(name: str, no_model: None, model_folder: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    error = refused(["generate", "a ball", "--model", model_folder, "-o", tmp_path / "out"], capsys, tmp_path)
    assert "choose another" in error
    assert "choose another" in refused(["demo", "scene", "-o", tmp_path / "out"], capsys, tmp_path)


@pytest.mark.parametrize("link", ["same", "hard", "symbolic", "folder"])
def test_a_result_does_not_replace_its_input(link: str, no_model: None, model_folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    image, disparity = picture(out / "image.png"), depth(out / "depth.npy")
    if link == "folder":
        (tmp_path / "link").symlink_to(out)
        image, disparity = (tmp_path / "link" / path.name for path in (image, disparity))
    elif link != "same":
        image, disparity = tmp_path / "i.png", tmp_path / "d.npy"
        (os.link if link == "hard" else os.symlink)(out / "image.png", image)
        (os.link if link == "hard" else os.symlink)(out / "depth.npy", disparity)
    mask = tmp_path / "mask.png"
    Image.fromarray(np.eye(32, dtype=np.uint8) * 255).save(mask)
    other_image, other_depth = picture(tmp_path / "other.png"), depth(tmp_path / "other.npy")
    model = ["--model", model_folder, "-o", out]
    commands: list[list[str | Path]] = [
        ["predict", image, *model],
        ["condition", disparity, "a ball", *model],
        ["refine", "--image", other_image, "--depth", disparity, *model],
        ["edit", "--image", image, "--depth", other_depth, "--mask", mask, *model],
        ["edit", "--image", other_image, "--depth", other_depth, "--mask", image, *model],
        ["panorama", "a ball", "--image", image, *model],
        ["panorama", "a ball", "--image", other_image, "--depth", disparity, *model],
        ["generate", "a ball", "--low-res", out, *model],
    ]
    for command in commands:
        assert "as an input, which the result would replace" in refused(command, capsys, tmp_path), command


def test_a_result_does_not_replace_another_input_of_the_same_run(model_folder: Path, tmp_path: Path, capsys: Any) -> None:
    first, second = picture(tmp_path / "a.png"), picture(tmp_path / "out" / "a" / "image.png", 1)
    before = second.read_bytes()
    assert main(["predict", str(first), str(second), "--model", str(model_folder), *SHORT, "-o", str(tmp_path / "out")]) == 2
    assert "a.png: got" in capsys.readouterr().err
    assert second.read_bytes() == before
    assert (tmp_path / "out" / "image" / "depth.npy").exists()


def test_other_outputs_do_not_replace_their_inputs(model_folder: Path, tmp_path: Path, capsys: Any) -> None:
    image, disparity = picture(tmp_path / "i.png"), depth(tmp_path / "d.npy")
    os.link(image, tmp_path / "x.glb")
    assert "as an input" in refused(["mesh", image, disparity, "-o", tmp_path / "x.glb"], capsys, tmp_path)
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    assert "as an input" in refused(["convert", "to-release", model, "-o", model], capsys, tmp_path)
    release = tmp_path / "release"
    for branch in ("unet", "jointnet"):
        shutil.copytree(model_folder / "joint_unet", release / branch)
    for out in (release, tmp_path / "link"):
        if out != release:
            out.symlink_to(release)
        assert "as an input" in refused(["convert", "release", release, "--base", "b", "-o", out], capsys, tmp_path)
    notes = tmp_path / "notes.md"
    notes.write_text("mine")
    for command in ("evaluate", "evaluate-tasks"):
        assert "as an input" in refused(["demo", command, "--notes", notes, "-o", notes], capsys, tmp_path)


def panorama_folder(folder: Path, size: int = 32) -> Path:
    """A folder as `jointnet panorama` leaves it, without drawing one."""
    picture(folder / "image.png")
    depth(folder / "depth.npy")
    facts = {"command": "panorama", "meaning": {}, "versions": {"jointnet": "0"}, "projection": "cylindrical", "span_deg": 90.0}
    (folder / "result.json").write_text(json.dumps({**facts, "depth_near_m": 1.5, "files": ["image.png", "depth.npy"]}))
    return folder


def vertices(*words: str | Path, out: Path) -> np.ndarray:
    assert main(["mesh", *map(str, words), "-o", str(out)]) == 0
    return trimesh.load(out, process=False, force="mesh").vertices


def test_the_result_of_other_files_says_nothing_of_a_photo(model_folder: Path, tmp_path: Path) -> None:
    folder, out = panorama_folder(tmp_path / "pano"), tmp_path / "x.glb"
    image, disparity = picture(folder / "photo.png"), depth(folder / "from_midas.npy", 1)
    alone = vertices(picture(tmp_path / "photo.png"), depth(tmp_path / "d.npy", 1), out=out)
    assert np.array_equal(vertices(image, disparity, out=out), alone)
    wide = vertices(folder / "image.png", folder / "depth.npy", out=out)
    assert np.array_equal(
        wide, vertices(folder / "image.png", folder / "depth.npy", "--projection", "cylindrical", "--span", "90", out=out)
    )
    assert main(["predict", str(image), "--model", str(model_folder), *SHORT, "-o", str(tmp_path / "out")]) == 0
    assert "projection" not in json.loads((tmp_path / "out" / "result.json").read_text())


def test_a_map_of_elsewhere_has_the_lens_of_its_picture_and_no_unit(tmp_path: Path) -> None:
    folder, out = panorama_folder(tmp_path / "pano"), tmp_path / "x.glb"
    other = depth(tmp_path / "other.npy", 2)
    expected = vertices(folder / "image.png", other, "--projection", "cylindrical", "--span", "90", "--near", "1", out=out)
    assert np.array_equal(vertices(folder / "image.png", other, out=out), expected)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[1]",
        '{"fov_deg": "50"}',
        '{"projection": ["a"], "files": ["d.npy", "i.png"]}',
        '{"program": "jointnet", "projection": "flat", "fov_deg": 900, "span_deg": null, "depth_near_m": NaN, "files": ["d.npy", "i.png"]}',
        '{"program": "jointnet", "files": {"d.npy": 1}, "fov_deg": 100}',
    ],
)
@pytest.mark.parametrize("is_told", [True, False])
def test_a_broken_or_foreign_result_never_stops_a_mesh(content: str, is_told: bool, tmp_path: Path) -> None:
    words: list[str | Path] = [picture(tmp_path / "i.png"), depth(tmp_path / "d.npy"), *(["--fov", "40", "--near", "2"] if is_told else [])]
    expected = vertices(*words, out=tmp_path / "x.glb")
    (tmp_path / "result.json").write_text(content)
    assert np.array_equal(vertices(*words, out=tmp_path / "x.glb"), expected)


def test_a_shorter_series_takes_the_place_of_a_longer_one(model_folder: Path, tmp_path: Path) -> None:
    words = ["generate", "a ball", "--model", str(model_folder), *SHORT, "-o", str(tmp_path / "out")]
    assert main([*words, "--num", "3"]) == 0
    (tmp_path / "out" / "mine").mkdir()
    assert main([*words, "--num", "2"]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["1", "2", "mine"]
    assert json.loads((tmp_path / "out" / "2" / "result.json").read_text())["numbered"] == {"number": 2, "of": 2}
    assert main(words) == 0
    assert not any(p.name.isdecimal() for p in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", ["picture", "model", "prompt", "size"])
def test_no_folder_is_left_after_an_error(kind: str, model_folder: Path, tmp_path: Path, capsys: Any) -> None:
    model, out = str(model_folder), str(tmp_path / "new" / "out")
    words = {
        "picture": ["predict", "missing.png", "--model", model],
        "model": ["generate", "a", "--model", str(tmp_path / "none")],
        "prompt": ["panorama", "--model", model],
        "size": ["generate", "a", "--size", "33x32", "--model", model],
    }[kind]
    assert main([*words, "-o", out]) == 2
    assert list(tmp_path.iterdir()) == []
    capsys.readouterr()


def test_no_run_or_model_folder_is_left_after_an_error(tmp_path: Path, capsys: Any) -> None:
    for words in (
        ["train", "stage1", "--from", str(tmp_path / "none"), "--data", str(tmp_path)],
        ["train", "stage1", "--from", "demo-base", "--data", str(tmp_path / "none")],
        ["convert", "release", str(tmp_path / "none"), "--base", "b"],
        ["convert", "to-release", str(tmp_path / "none")],
    ):
        assert main([*words, "-o", str(tmp_path / "new" / "run")]) == 2, words
        assert list(tmp_path.iterdir()) == [], words
    capsys.readouterr()


def test_an_interrupt_leaves_no_folder(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(JointNetPipeline, "run", stop)
    assert main(["generate", "a", "--model", str(model_folder), "-o", str(tmp_path / "new" / "out")]) == 130
    assert list(tmp_path.iterdir()) == []
    capsys.readouterr()


def test_files_of_a_modality_that_names_them_itself_are_not_replaced_either(tmp_path: Path, capsys: Any) -> None:
    import jointnet
    from jointnet.modalities import modality as registry
    from jointnet.modalities.write import FloatArray

    jointnet.register_modality(
        jointnet.Modality(name="heat", channels=1, meaning="warm is 1", own_files=lambda map_: {"warm.npy": FloatArray(map_)})
    )
    try:
        tiny_pipeline(("rgb", "heat")).save_pretrained(tmp_path / "model")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "warm.npy").write_text("mine")
        assert main(["generate", "a", "--model", str(tmp_path / "model"), *SHORT, "-o", str(tmp_path / "out")]) == 2
    finally:
        registry._REGISTRY.pop("heat")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"warm.npy"}
    assert (tmp_path / "out" / "warm.npy").read_text() == "mine"
    capsys.readouterr()


def test_a_folder_that_only_looks_like_a_model_is_left_alone(tmp_path: Path, model_folder: Path) -> None:
    """An index of another program names no file that we remove, and a base of the user's is no model of ours."""
    other, base = tmp_path / "project", tmp_path / "sd"
    for folder, index in ((other, {"thesis.txt": 1, "photos": 2}), (base, {"_class_name": "StableDiffusionPipeline", "unet": ["a", "b"]})):
        (folder / "unet").mkdir(parents=True)
        (folder / "thesis.txt").write_text("mine")
        (folder / "model_index.json").write_text(json.dumps(index))
        before = contents_of(folder)
        assert main(["convert", "to-release", str(model_folder), "-o", str(folder)]) == 2
        assert contents_of(folder) == before


def test_hidden_neighbours_of_a_model_are_left_alone(tmp_path: Path, model_folder: Path) -> None:
    for name in (".m.old", ".m.unfinished"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("mine")
    before = contents_of(tmp_path)
    assert main(["convert", "to-release", str(model_folder), "-o", str(tmp_path / "m")]) == 0
    assert {name: text for name, text in contents_of(tmp_path).items() if name in before} == before


@pytest.mark.parametrize("place", ["start", "data"])
def test_a_run_does_not_replace_what_it_reads(place: str, tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(model_folder, run / "model")
    data.mkdir()
    before = contents_of(run)
    output = run if place == "start" else data
    assert main(["train", "stage1", "--from", str(run / "model"), "--data", str(data), "-o", str(output)]) == 2
    assert "holds what the run reads" in capsys.readouterr().err
    assert contents_of(run) == before


def test_a_file_under_the_name_of_a_map_is_checked_by_mesh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the modality nor the content of a file is known by its name in a result.json."""
    scene = tmp_path / "scene"
    assert main(["demo", "scene", "--size", "64", "-o", str(scene)]) == 0
    mesh = ["mesh", str(scene / "image.png"), str(scene / "depth.npy"), "-o", str(tmp_path / "x.glb")]
    assert main([*mesh, "--normal", str(scene / "image.png")]) == 2
    flipped = np.load(scene / "normal.npy") * np.array([1, 1, -1], np.float32)
    np.save(scene / "normal.npy", flipped)
    assert main([*mesh, "--normal", str(scene / "normal.npy")]) == 2
    assert "normal" in capsys.readouterr().err


def test_a_picture_of_the_user_under_a_name_of_ours_is_not_replaced(model_folder: Path, tmp_path: Path, capsys: Any) -> None:
    """Under a name that result.json lists, in a set of its own and in one of several."""
    out, image = tmp_path / "out", picture(tmp_path / "a.png")
    other = picture(tmp_path / "b.png", 1)
    model = ["--model", str(model_folder), *SHORT]
    assert main(["predict", str(image), *model, "-o", str(out)]) == 0
    assert main(["predict", str(image), str(other), *model, "-o", str(tmp_path / "several")]) == 0
    assert main(["generate", "a", *model, "--num", "2", "-o", str(tmp_path / "series")]) == 0
    mine = picture(tmp_path / "mine.png", 7).read_bytes()
    for folder in (out, tmp_path / "several" / "a", tmp_path / "series" / "2"):
        (folder / "image.png").write_bytes(mine)
    line = refused(["predict", image, "--model", model_folder, "--steps", "2", "-o", out], capsys, tmp_path)
    assert "not the file of an earlier result any more" in line
    line = refused(["generate", "b", "--model", model_folder, "--num", "3", "-o", tmp_path / "series"], capsys, tmp_path)
    assert "not the file of an earlier result any more" in line
    for steps in ("1", "2"):  # neither kept nor replaced
        words = ["predict", str(image), str(other), "--model", str(model_folder), "--steps", steps, "--seed", "3"]
        assert main([*words, "-o", str(tmp_path / "several")]) == 2
        assert "a.png: got" in capsys.readouterr().err
    assert main(["generate", "a", *model, "-o", str(tmp_path / "series")]) == 0, "a shorter series"
    for folder in (out, tmp_path / "several" / "a", tmp_path / "series" / "2"):
        assert (folder / "image.png").read_bytes() == mine


def test_a_mesh_says_that_a_result_speaks_of_another_content(tmp_path: Path, capsys: Any) -> None:
    scene = tmp_path / "scene"
    assert main(["demo", "scene", "--size", "32", "-o", str(scene)]) == 0
    depth(scene / "depth.npy")
    capsys.readouterr()
    vertices(scene / "image.png", scene / "depth.npy", out=tmp_path / "x.glb")
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "is not what result.json beside it was written with" in lines[0]


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
