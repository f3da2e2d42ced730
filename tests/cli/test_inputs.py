"""Several inputs of one command, maps of any modality, and what is printed as JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

import jointnet
from jointnet.cli.main import main
from jointnet.cli.matching import match_files, names_of
from jointnet.errors import InputFileError
from jointnet.modalities import modality as registry
from jointnet.pipelines.joint_net import JointNetPipeline
from tests.conftest import read_png, tiny_pipeline


@pytest.fixture
def albedo() -> Iterator[None]:
    """A modality of the user's own."""
    jointnet.register_modality(jointnet.Modality(name="albedo", channels=3, meaning="base colour in [0, 1]"))
    yield
    registry._REGISTRY.pop("albedo")


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return path


def depth(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.random.default_rng(seed).random((32, 32), np.float32))
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures, one that is broken, and what is no picture."""
    folder = tmp_path / "pictures"
    for name, seed in (("a.png", 1), ("c.png", 3)):
        picture(folder / name, seed)
    (folder / "b.png").write_text("broken")
    (folder / "notes.txt").write_text("mine")
    picture(folder / ".hidden.png")
    picture(folder / "below" / "d.png")
    return folder


def written(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


def command(name: str, model: Path, out: Path, *more: str | Path) -> list[str]:
    return [name, *map(str, more), "--model", str(model), "--steps", "2", "--seed", "3", "-o", str(out)]


def test_each_picture_of_a_folder_gets_its_result_and_a_broken_one_is_reported(
    pictures: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("predict", model_folder, tmp_path / "out", pictures)) == 2
    printed = capsys.readouterr()
    error, summary = printed.err.strip().splitlines()
    assert error.startswith("jointnet predict: error: b.png: cannot read")
    assert summary == "jointnet predict: 2 of 3 done; failed: b.png"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a", "c"]
    assert str(tmp_path / "out" / "c" / "depth.npy") in printed.out.splitlines()
    assert main(command("predict", model_folder, tmp_path / "one", pictures / "c.png")) == 0
    for name in ("image.png", "depth.npy"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "out" / "c" / name).read_bytes()


def test_a_run_that_is_started_again_does_what_is_left(
    pictures: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, runs = tmp_path / "out", []
    run_request = JointNetPipeline.run
    monkeypatch.setattr(JointNetPipeline, "run", lambda pipe, request: runs.append(1) or run_request(pipe, request))

    def again(*more: str) -> int:
        runs.clear()
        code = main(command("predict", model_folder, out, pictures, *more))
        capsys.readouterr()
        is_refused = (out / "a" / "result.json").exists() and (out / "a" / "result.json").read_text() == "{"
        assert code == (0 if (pictures / "b.png").read_bytes()[:4] == b"\x89PNG" and not is_refused else 2)
        return len(runs)

    assert again() == 2
    before = written(out)
    assert again() == 0
    assert written(out) == before
    picture(pictures / "b.png", 2)  # mended
    assert again() == 1
    assert again() == 0
    picture(pictures / "a.png", 9)  # another picture of the same name
    assert again() == 1
    (out / "c" / "depth.npy").unlink()
    assert again() == 1
    assert again("--ensemble", "2") == 3  # other options
    assert again("--ensemble", "2") == 0
    (out / "a" / "result.json").write_text("{")
    assert again("--ensemble", "2") == 0
    assert (out / "a" / "result.json").read_text() == "{"


def test_another_model_at_the_same_place_is_run_again(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, paths = tmp_path / "model", [picture(tmp_path / "in" / f"{i}.png", i) for i in range(2)]
    shutil.copytree(model_folder, model)
    assert main(command("predict", model, tmp_path / "out", *paths)) == 0
    before = (tmp_path / "out" / "0" / "depth.npy").read_bytes()
    tiny_pipeline(seed=1).save_pretrained(model)
    assert main(command("predict", model, tmp_path / "out", *paths)) == 0
    assert (tmp_path / "out" / "0" / "depth.npy").read_bytes() != before
    capsys.readouterr()


def test_several_maps_are_conditioned_on_with_one_prompt(model_folder: Path, tmp_path: Path) -> None:
    paths = [depth(tmp_path / "in" / f"{name}.npy", seed) for seed, name in enumerate("ab")]
    assert main(command("condition", model_folder, tmp_path / "files", *paths, "--prompt", "a ball")) == 0
    assert main(command("condition", model_folder, tmp_path / "folder", tmp_path / "in", "a ball")) == 0
    for name in "ab":
        first, second = (tmp_path / kind / name for kind in ("files", "folder"))
        assert (first / "image.png").read_bytes() == (second / "image.png").read_bytes()
        assert json.loads((first / "result.json").read_text())["prompt"] == "a ball"


def test_pictures_are_refined_with_the_depth_of_their_name(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, name in enumerate(("a", "b", "c")):
        picture(tmp_path / "images" / f"{name}.png", i)
    depth(tmp_path / "depths" / "a.npy", 5)
    depth(tmp_path / "depths" / "b.depth.npy", 6)
    arguments = ["--image", tmp_path / "images", "--depth", tmp_path / "depths", "--only", "depth"]
    assert main(command("refine", model_folder, tmp_path / "out", *arguments)) == 2
    error, summary = capsys.readouterr().err.strip().splitlines()
    assert "c.png: got no depth for c.png; expected one named c.npy or c.png" in error
    assert summary == "jointnet refine: 2 of 3 done; failed: c.png"
    facts = json.loads((tmp_path / "out" / "b" / "result.json").read_text())["request"]
    assert facts["image"] == str(tmp_path / "images" / "b.png")
    assert facts["dense"] == {"depth": str(tmp_path / "depths" / "b.depth.npy")}
    assert (facts["only"], facts["strength"], facts["scale"]) == ("depth", 0.4, 1)


def test_result_sets_have_distinct_names() -> None:
    assert names_of([Path("x/a.png"), Path("x/b.png")]) == ["a", "b"]
    assert names_of([Path("x/a.png"), Path("x/a.jpg"), Path("y/a.png"), Path("x/A.gif")]) == ["a.png", "a.jpg", "a.png-2", "A.gif"]
    names = names_of([Path("a.png"), Path("a.jpg"), Path("a.png.png"), Path("b.png")])
    assert len(set(names)) == 4


def test_folders_without_pictures_and_folders_for_one_picture_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputFileError, match=r"without a file of rgb; expected \.png"):
        match_files({"rgb": [tmp_path / "empty"]})
    arguments = ["refine", "--image", str(picture(tmp_path / "a.png")), "--depth", str(tmp_path / "empty"), "-o", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert not (tmp_path / "out").exists()


def test_maps_of_a_modality_of_ones_own_are_taken_by_every_command(albedo: None, tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    tiny_pipeline(("rgb", "depth", "albedo")).save_pretrained(model)
    image, colour, disparity = picture(tmp_path / "i.png"), picture(tmp_path / "albedo.png", 1), depth(tmp_path / "d.npy")
    mask = np.zeros((32, 32), np.uint8)
    mask[4:20, 4:20] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    maps = ["--image", image, "--depth", disparity, "--map", f"albedo={colour}"]

    assert main(command("edit", model, out, *maps, "--mask-of", f"albedo={tmp_path / 'mask.png'}", "--prompt", "a ball")) == 0
    same = (read_png(out / "albedo.png") == read_png(colour)).all(-1)
    assert same[mask == 0].all()
    assert not same[mask > 0].all()
    assert np.array_equal(read_png(out / "image.png"), read_png(image))

    assert main(command("refine", model, out, *maps, "--only", "albedo")) == 0
    assert np.array_equal(read_png(out / "image.png"), read_png(image))
    assert not np.array_equal(read_png(out / "albedo.png"), read_png(colour))

    assert main(command("condition", model, out, "--map", f"albedo={colour}", "--depth", disparity, "--prompt", "a ball")) == 0
    assert np.array_equal(read_png(out / "albedo.png"), read_png(colour))
    assert np.array_equal(np.load(out / "depth.npy"), np.load(disparity))
    assert main(command("condition", model, out, colour, "a ball", "--modality", "albedo", "--map", f"depth={disparity}")) == 0
    assert np.array_equal(read_png(out / "albedo.png"), read_png(colour))
    assert np.array_equal(np.load(out / "depth.npy"), np.load(disparity))


def test_a_mesh_takes_depth_and_normals_by_name(tmp_path: Path) -> None:
    image = picture(tmp_path / "i.png")
    np.save(tmp_path / "d.npy", np.linspace(0.4, 0.8, 32 * 32, dtype=np.float32).reshape(32, 32))
    normals = np.zeros((32, 32, 3), np.float32)
    normals[:, 16:] = (0.6, 0.0, 0.8)
    np.save(tmp_path / "n.npy", normals)
    arguments = ["mesh", str(image), "--map", f"depth={tmp_path / 'd.npy'}", "-o", str(tmp_path / "x.glb")]

    def vectors(*more: str) -> np.ndarray:
        assert main([*arguments, *more]) == 0
        return trimesh.load(tmp_path / "x.glb", process=False).geometry.popitem()[1].vertex_normals.reshape(32, 32, 3)

    own, shaded = vectors(), vectors("--normal", str(tmp_path / "n.npy"))
    assert np.allclose(shaded[:, 16:], (0.6, 0, 0.8), atol=1e-6)
    assert np.allclose(shaded[:, :16], own[:, :16], atol=1e-6)
    assert not np.allclose(own[:, 16:], (0.6, 0, 0.8), atol=0.1)
    assert main([*arguments, "--normal", str(tmp_path / "n.npy"), "--projection", "cylindrical"]) == 2


def as_json(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> Any:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_what_was_written_is_printed_as_json(
    pictures: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    one = as_json(command("predict", model_folder, out, pictures / "a.png"), capsys)
    assert one["output"] == str(out)
    assert set(one["files"]) == {str(p) for p in out.iterdir()}
    many = as_json(command("predict", model_folder, out, pictures), capsys, 2)
    assert [each["input"] for each in many] == [str(pictures / f"{name}.png") for name in "abc"]
    assert "cannot read" in many[1]["error"]
    assert many[2]["output"] == str(out / "c")
    assert not many[2]["kept"]
    kept = as_json(command("predict", model_folder, out, pictures), capsys, 2)[2]
    assert kept["kept"]
    assert set(kept["files"]) == set(many[2]["files"])
    assert len(as_json([*command("generate", model_folder, out, "a"), "--num", "2"], capsys)) == 2
    assert as_json(command("generate", model_folder, out, "a"), capsys)["output"] == str(out)
    scene = as_json(["demo", "scene", "--size", "32", "-o", str(tmp_path / "scene")], capsys)["output"]
    mesh = ["mesh", f"{scene}/image.png", f"{scene}/depth.npy", "-o", str(tmp_path / "x.glb")]
    assert as_json(mesh, capsys) == {"output": str(tmp_path / "x.glb"), "files": [str(tmp_path / "x.glb")]}


def test_result_json_has_each_option_once(model_folder: Path, tmp_path: Path) -> None:
    arguments = command("predict", model_folder, tmp_path / "out", picture(tmp_path / "a.png"), "--negative", "fog", "--stride", "8")
    assert main(arguments) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert set(result) == {
        *("command", "prompt", "negative_prompt", "seed", "model", "base", "device", "scheduler", "sampling", "request", "meaning"),
        *("program", "depth_near_m", "versions", "seconds", "files", "contents", "inputs", "model_files"),
    }
    assert (result["command"], result["negative_prompt"], result["seed"], result["base"]) == ("predict", "fog", 3, None)
    assert result["sampling"]["guidance_scale"] == 7.5
    assert (result["sampling"]["stride"], result["sampling"]["conventions"]) == (8, "paper")
    assert "negative_prompt" not in result["sampling"]
