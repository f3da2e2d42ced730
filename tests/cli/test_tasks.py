from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from jointnet.cli.main import main
from jointnet.loading import load
from jointnet.pipelines.joint_net import JointNetPipeline
from jointnet.sampling.solvers import scheduler_like
from tests.conftest import read_png, tiny_pipeline

SHORT = ["--steps", "2", "--seed", "3"]


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """A picture, its depth and a mask, 40 x 56 px."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 56, 3), np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(rng.integers(0, 65536, (40, 56)).astype(np.uint16)).save(tmp_path / "depth.png")
    mask = np.zeros((40, 56), np.uint8)
    mask[5:20, 10:30] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask * 0).save(tmp_path / "black.png")
    return tmp_path


def run(command: str, model: Path, out: Path, *more: str | Path) -> int:
    return main([command, *map(str, more), "--model", str(model), *SHORT, "-o", str(out)])


def test_predict(model_folder: Path, maps: Path) -> None:
    assert run("predict", model_folder, maps / "out", maps / "image.png", "--ensemble", "2") == 0
    assert np.array_equal(read_png(maps / "out" / "image.png"), read_png(maps / "image.png"))
    assert np.load(maps / "out" / "depth.npy").shape == (40, 56)
    assert np.load(maps / "out" / "depth_uncertainty.npy").shape == (40, 56)
    result = json.loads((maps / "out" / "result.json").read_text())
    assert result["request"] == {"image": str(maps / "image.png"), "ensemble": 2}
    assert result["sampling"]["guidance_scale"] == 1


def test_condition(model_folder: Path, maps: Path) -> None:
    assert run("condition", model_folder, maps / "out", maps / "depth.png", "a red ball") == 0
    assert np.array_equal(read_png(maps / "out" / "depth.png"), read_png(maps / "depth.png"))
    assert json.loads((maps / "out" / "result.json").read_text())["sampling"]["guidance_scale"] == 7.5


@pytest.mark.parametrize("masks", [["--mask"], ["--image-mask"], ["--image-mask", "--depth-mask"]])
def test_edit(model_folder: Path, maps: Path, masks: list[str]) -> None:
    named = [part for mask in masks for part in (mask, maps / "mask.png")]
    assert run("edit", model_folder, maps / "out", "--image", maps / "image.png", "--depth", maps / "depth.png", *named, "a box") == 0
    hole = read_png(maps / "mask.png") > 127
    for name in ("image.png", "depth.png"):
        same = read_png(maps / "out" / name) == read_png(maps / name)
        assert same[~hole].all()
        asked = "--mask" in masks or f"--{name[:-4]}-mask" in masks
        assert same[hole].all() != asked


def test_refine(model_folder: Path, maps: Path) -> None:
    given = ["--image", maps / "image.png", "--depth", maps / "depth.png"]
    assert run("refine", model_folder, maps / "out", *given, "--only", "depth") == 0
    assert np.array_equal(read_png(maps / "out" / "image.png"), read_png(maps / "image.png"))
    assert not np.array_equal(read_png(maps / "out" / "depth.png"), read_png(maps / "depth.png"))
    assert run("refine", model_folder, maps / "two", *given, "--scale", "2") == 0
    assert read_png(maps / "two" / "image.png").shape == (80, 112, 3)


def test_panorama_writes_a_scene(model_folder: Path, maps: Path) -> None:
    assert run("panorama", model_folder, maps / "out", "grass", "--size", "32x128", "--span", "360") == 0
    assert read_png(maps / "out" / "image.png").shape == (32, 128, 3)
    scene = trimesh.load(maps / "out" / "scene.glb", force="mesh", process=False)
    assert len(scene.faces) > 100
    assert run("panorama", model_folder, maps / "photo", "grass", "--size", "32x128", "--image", maps / "image.png") == 0


GIVEN = ["--image", "image.png", "--depth", "depth.png"]


@pytest.mark.parametrize(
    ("command", "arguments", "asked"),
    [
        ("predict", ["image.png", "--processing-size", "16"], {"processing_size": 16}),
        ("predict", ["image.png", "--wrap"], {"tiled": None, "wraps": True}),
        ("predict", ["image.png", "--tiled", "--stride", "8"], {"tiled": True, "wraps": False, "stride": 8}),
        ("predict", ["image.png", "--resample", "2"], {"num_resamples": 2}),
        ("condition", ["depth.png", "--wrap"], {"tiled": None, "wraps": True}),
        ("edit", [*GIVEN, "--mask", "mask.png", "--strength", "0.5"], {"strength": 0.5}),
        ("refine", [*GIVEN, "--only", "image", "--strength", "0.8"], {"only": ["rgb"], "strength": 0.8}),
        ("refine", GIVEN, {"only": None, "strength": 0.4, "scale": 1}),
        ("panorama", ["grass", "--refine", "2"], {"scale": 2, "height": None, "width": None, "span_deg": 180}),
        (
            "panorama",
            [
                "--size",
                "32x64",
                "--projection",
                "equirectangular",
                "--span",
                "90",
                "--image",
                "image.png",
                "--image-fov",
                "40",
                "--resample",
                "2",
            ],
            {"height": 32, "width": 64, "projection": "equirectangular", "span_deg": 90, "image_fov_deg": 40, "num_resamples": 2},
        ),
    ],
)
def test_what_is_typed_reaches_the_task(
    command: str, arguments: list[str], asked: dict[str, Any], model_folder: Path, maps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_request, seen = JointNetPipeline.run, {}

    def look(pipeline: JointNetPipeline, request: Any) -> Any:
        seen.update({**vars(request.options), **vars(request)})
        return run_request(pipeline, request)

    monkeypatch.setattr(JointNetPipeline, "run", look)
    assert run(command, model_folder, maps / "out", *(maps / a if a.endswith(".png") else a for a in arguments)) == 0
    assert asked.items() <= seen.items()
    assert seen["num_inference_steps"] == 2


def test_normals_are_given_and_asked_as_depth_is(maps: Path) -> None:
    model = maps / "model"
    tiny_pipeline(("rgb", "depth", "normal")).save_pretrained(model)
    Image.fromarray(np.full((40, 56, 3), (128, 128, 255), np.uint8)).save(maps / "normal.png")
    given = ["--image", maps / "image.png", "--depth", maps / "depth.png", "--normal", maps / "normal.png"]
    assert run("condition", model, maps / "a", maps / "normal.png", "--modality", "normal") == 0
    assert np.array_equal(read_png(maps / "a" / "normal.png"), read_png(maps / "normal.png"))
    assert run("edit", model, maps / "b", *given, "--normal-mask", maps / "mask.png") == 0
    hole = read_png(maps / "mask.png") > 127
    same = (read_png(maps / "b" / "normal.png") == read_png(maps / "normal.png")).all(-1)
    assert same[~hole].all()
    assert not same[hole].all()
    assert np.array_equal(read_png(maps / "b" / "depth.png"), read_png(maps / "depth.png"))
    assert run("refine", model, maps / "c", *given, "--only", "normal") == 0
    assert np.array_equal(read_png(maps / "c" / "image.png"), read_png(maps / "image.png"))
    assert not np.array_equal(read_png(maps / "c" / "normal.png"), read_png(maps / "normal.png"))


def test_a_mesh_is_as_its_options_say(maps: Path) -> None:
    """Of a ramp of disparity from 1 (left) to 0.1."""
    Image.fromarray(np.tile(np.linspace(65535, 6554, 56), (40, 1)).astype(np.uint16)).save(maps / "depth.png")

    def mesh(*options: str) -> trimesh.Trimesh:
        assert main(["mesh", str(maps / "image.png"), str(maps / "depth.png"), *options, "-o", str(maps / "x.glb")]) == 0
        return trimesh.load(maps / "x.glb", force="mesh", process=False)

    def range_m(*options: str) -> tuple[float, float]:
        z = -mesh("--fov", "50", *options).vertices[:, 2]
        return float(z.min()), float(z.max())

    assert range_m("--near", "2", "--far", "10", "--disparity", "affine") == pytest.approx((2, 1 / (0.1 / 2 + 0.9 / 10)), rel=1e-3)
    assert range_m("--near", "2", "--disparity", "scaled") == pytest.approx((2, 20), rel=1e-3)
    around = mesh("--projection", "cylindrical", "--span", "360", "--near", "2").vertices
    assert around[:, 2].max() > 1  # behind the camera too
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(6554, 65536, (40, 56)).astype(np.uint16)).save(maps / "depth.png")
    assert len(mesh("--edge-threshold", "0.1").faces) < len(mesh("--edge-threshold", "100").faces)


def test_another_scheduler_takes_over_the_models_noise_levels(model_folder: Path, maps: Path) -> None:
    given = ["--image", maps / "image.png", "--depth", maps / "depth.png", "--scheduler", "pndm", "--strength", "0.9"]
    assert run("refine", model_folder, maps / "pndm", *given) == 0  # begins in the middle, which Runge-Kutta steps cannot
    for name, kind in {"euler": "EulerDiscreteScheduler", "ddpm": "DDPMScheduler"}.items():
        assert run("predict", model_folder, maps / name, maps / "image.png", "--scheduler", name) == 0
        assert json.loads((maps / name / "result.json").read_text())["scheduler"] == kind
    model = load(model_folder)
    ddpm = scheduler_like(model.scheduler, "ddpm")
    assert torch.equal(ddpm.alphas_cumprod, model.scheduler.alphas_cumprod)
    assert ddpm.config.clip_sample is False
    assert not np.array_equal(*(np.load(maps / name / "depth.npy") for name in ("euler", "ddpm")))


def test_mesh_takes_what_a_run_wrote(model_folder: Path, maps: Path) -> None:
    assert run("panorama", model_folder, maps / "out", "grass", "--size", "32x128", "--span", "360") == 0
    given = [str(maps / "out" / name) for name in ("image.png", "depth.npy")]
    assert main(["mesh", *given, "-o", str(maps / "again.glb")]) == 0
    one, two = (trimesh.load(p, force="mesh", process=False) for p in (maps / "out" / "scene.glb", maps / "again.glb"))
    assert np.allclose(one.vertices, two.vertices, atol=1e-4)
    assert main(["mesh", *given, "--fov", "40", "--projection", "pinhole", "-o", str(maps / "cloud.ply")]) == 0
    assert len(trimesh.load(maps / "cloud.ply").vertices) == 32 * 128


def test_bad_input_is_one_line_and_exit_code_2(model_folder: Path, maps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(maps / "nan.npy", np.full((40, 56), np.nan))
    Image.new("RGB", (8, 8)).save(maps / "small.png")
    image, depth, mask = (["--" + n, maps / f"{n}.png"] for n in ("image", "depth", "mask"))
    cases = {
        "NaN": ("condition", [maps / "nan.npy"]),
        "one size": ("edit", ["--image", maps / "small.png", *depth, *mask]),
        "without a hole": ("edit", [*image, *depth, "--mask", maps / "black.png"]),
        "neither or both": ("edit", [*image, *depth]),
        "cannot read": ("predict", [maps / "missing.png"]),
        "normal": ("condition", [maps / "image.png", "--modality", "normal"]),
        "multiples": ("panorama", ["grass", "--size", "33x128"]),
        "poles": ("panorama", ["grass", "--size", "128x128", "--span", "360", "--projection", "equirectangular"]),
        "near": ("panorama", ["grass", "--size", "32x128", "--near", "10", "--far", "5"]),
        "processing size": ("predict", [maps / "image.png", "--processing-size", "33"]),
        "stride of 64": ("panorama", ["grass", "--size", "32x128", "--stride", "64"]),
        "neither a prompt nor --image": ("panorama", []),
        "a span of 0": ("panorama", ["grass", "--span", "0"]),
        "where nothing is known": ("panorama", ["grass", "--size", "32x128", "--resample", "2"]),
    }
    for message, (command, arguments) in cases.items():
        assert run(command, model_folder, maps / "bad", *arguments) == 2, message
        error = capsys.readouterr().err.strip()
        assert message in error
        assert len(error.splitlines()) == 1
        assert not list((maps / "bad").glob("*.p*")) if (maps / "bad").exists() else True


@pytest.mark.parametrize(
    "arguments",
    [
        ["refine", "--image", "a", "--depth", "b", "--strength", "1.1", "-o", "c"],
        ["edit", "--image", "a", "--depth", "b", "--mask", "d", "--strength", "1.1", "-o", "c"],
        ["edit", "--image", "a", "--depth", "b", "--mask", "d", "--strength", "-0.1", "-o", "c"],
        ["panorama", "x", "--span", "361", "-o", "c"],
        ["predict", "a", "--ensemble", "0", "-o", "c"],
        ["mesh", "a", "b", "--fov", "50", "--span", "180", "-o", "c.glb"],
    ],
)
def test_arguments_out_of_range(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_scene_of_the_demo_world_becomes_a_mesh_of_its_depth(tmp_path: Path) -> None:
    assert main(["demo", "scene", "--seed", "2", "--size", "64", "-o", str(tmp_path)]) == 0
    assert main(["mesh", str(tmp_path / "image.png"), str(tmp_path / "depth.png"), "-o", str(tmp_path / "scene.glb")]) == 0
    said = json.loads((tmp_path / "result.json").read_text())
    z = -trimesh.load(tmp_path / "scene.glb", force="mesh", process=False).vertices[:, 2]
    disparity = np.load(tmp_path / "depth.npy")
    assert z.min() == pytest.approx(said["depth_near_m"] / disparity.max(), rel=1e-3)


def test_a_mesh_of_what_does_not_fit_is_refused(maps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["mesh", str(maps / "image.png"), str(maps / "depth.png"), "-o", str(maps / "x.glb")]
    assert main([*given, "--span", "90"]) == 2
    assert "expected --fov" in capsys.readouterr().err
    assert not (maps / "x.glb").exists()


def test_what_a_panorama_was_is_carried_on_to_its_mesh(model_folder: Path, maps: Path) -> None:
    facts = {"program": "jointnet", "projection": "cylindrical", "span_deg": 120.0, "prompt": "grass", "files": ["image.png"]}
    (maps / "result.json").write_text(json.dumps(facts))
    assert run("predict", model_folder, maps / "out", maps / "image.png", "--tiled") == 0
    result = json.loads((maps / "out" / "result.json").read_text())
    assert (result["projection"], result["span_deg"]) == ("cylindrical", 120.0)
    assert result["sampling"]["tiled"] is True


def test_a_result_takes_the_place_of_an_earlier_one_whole(model_folder: Path, maps: Path, tmp_path: Path) -> None:
    command = ["predict", str(maps / "image.png"), "--model", str(model_folder), "--steps", "1", "-o", str(tmp_path / "out")]
    assert main([*command, "--ensemble", "2"]) == 0
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert (tmp_path / "out" / "depth_uncertainty.npy").exists()
    assert main(command) == 0
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert not any("uncertainty" in name for name in left)
    assert {"notes.txt", "image.png", "depth.npy", "result.json"} <= left


def test_a_panoramas_scene_is_one_of_its_files(model_folder: Path, tmp_path: Path) -> None:
    command = ["panorama", "grass", "--model", str(model_folder), "--steps", "1", "--size", "32x64", "-o", str(tmp_path)]
    assert main(command) == 0
    assert "scene.glb" in json.loads((tmp_path / "result.json").read_text())["files"]
    assert (tmp_path / "scene.glb").exists()
