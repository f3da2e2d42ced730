"""Inputs that are not of the bundled models' world, a photo's own depth, canvases that stack windows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from jointnet.cli.main import main
from jointnet.errors import JointNetWarning, ShapeError, UnknownNameError
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.panorama import Panorama
from tests.conftest import tiny_pipeline


@pytest.fixture
def small_world(tmp_path: Path) -> Path:
    """A model of a small world, with the near distance of the demo's."""
    pipeline = tiny_pipeline()
    pipeline.register_to_config(depth_near_m=1.5)
    pipeline.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "vocabulary.json").write_text(json.dumps({"words": ["a", "ball"]}))
    return tmp_path / "model"


def picture(path: Path, seed: int = 0) -> Path:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return path


def run(words: list[str], model: Path, out: Path) -> dict:
    assert main([*words, "--model", str(model), "--steps", "1", "-o", str(out)]) == 0
    return json.loads((out / "result.json").read_text())


def test_a_photo_gets_a_warning_and_no_unit(
    small_world: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = str(picture(tmp_path / "photo.png"))
    facts = run(["predict", photo], small_world, tmp_path / "out")
    warning = capsys.readouterr().err.strip()
    assert warning.startswith("warning: ")
    assert "nothing says that photo.png shows one" in warning
    assert len(warning.splitlines()) == 1
    assert facts["depth_near_m"] is None
    out = str(tmp_path / "x.glb")
    assert main(["mesh", photo, str(tmp_path / "out" / "depth.npy"), "-o", out]) == 0
    nearest = -trimesh.load(out, force="mesh", process=False).vertices[:, 2].max()
    assert nearest >= 1, "1 to 30, not 1.5 / disparity"
    run(
        ["refine", "--image", str(tmp_path / "out" / "image.png"), "--depth", str(tmp_path / "out" / "depth.npy")],
        small_world,
        tmp_path / "two",
    )
    assert "warning" in capsys.readouterr().err, "what was made of a photo is no scene either"
    run(["predict", photo], model_folder, tmp_path / "other")
    assert "warning" not in capsys.readouterr().err, "another model may know photos"


def test_scenes_and_what_is_made_of_them_get_none(small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene, data = tmp_path / "scene", tmp_path / "data"
    assert main(["demo", "scene", "--size", "32", "-o", str(scene)]) == 0
    assert main(["demo", "scene", "--num", "2", "--size", "32", "-o", str(data)]) == 0
    assert run(["predict", str(scene / "image.png")], small_world, tmp_path / "a")["depth_near_m"] == 1.5
    assert run(["predict", str(tmp_path / "a" / "image.png")], small_world, tmp_path / "b")["depth_near_m"] == 1.5
    run(["condition", str(scene / "depth.npy"), "a ball"], small_world, tmp_path / "c")
    assert main(["predict", str(data), "--model", str(small_world), "--steps", "1", "-o", str(tmp_path / "d")]) == 0
    assert "warning" not in capsys.readouterr().err


def test_of_several_photos_one_line_warns(small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = [str(picture(tmp_path / f"{name}.png", seed)) for seed, name in enumerate("abc")]
    assert main(["predict", *photos, "--model", str(small_world), "--steps", "1", "-o", str(tmp_path / "out")]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    assert "a.png and 2 more" in warnings[0]
    assert json.loads((tmp_path / "out" / "b" / "result.json").read_text())["depth_near_m"] is None


def options() -> SamplingOptions:
    return SamplingOptions(num_inference_steps=2, generator=torch.Generator().manual_seed(0))


def test_a_photos_depth_can_be_passed_to_a_panorama() -> None:
    pipeline = tiny_pipeline()
    photo = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    disparity = torch.linspace(0.2, 0.9, 32).expand(1, 1, 32, 32).transpose(2, 3).contiguous()

    def depth_of(depth: torch.Tensor | None) -> torch.Tensor:
        request = Panorama(image=photo, depth=depth, image_fov_deg=60, height=32, width=128, options=options())
        return pipeline.run(request).maps["depth"][0, 0, :, 60:68]  # the photo's middle, where cylinder and plane meet

    known = depth_of(disparity)
    assert torch.allclose(known.diff(dim=0).sign(), torch.ones(1), atol=1e-6), "the ramp that was passed, top to bottom"
    assert torch.equal(known, depth_of(disparity))
    assert not torch.allclose(known, depth_of(None), atol=0.05)


def test_a_photos_depth_has_its_size_and_needs_the_photo_and_a_model_of_depth() -> None:
    photo, disparity = torch.rand(1, 3, 32, 32), torch.rand(1, 1, 16, 32)
    with pytest.raises(ShapeError, match="depth of 16x32 px for a photo of 32x32 px"):
        tiny_pipeline().run(Panorama(image=photo, depth=disparity, options=options()))
    with pytest.raises(ShapeError, match="without the photo"):
        tiny_pipeline().run(Panorama(prompt="a", depth=disparity, options=options()))
    with pytest.raises(UnknownNameError, match="for a model of rgb, normal"):
        tiny_pipeline(("rgb", "normal")).run(Panorama(image=photo, depth=photo[:, :1], options=options()))


def test_the_command_takes_a_photos_depth(model_folder: Path, tmp_path: Path) -> None:
    photo = str(picture(tmp_path / "photo.png"))
    np.save(tmp_path / "d.npy", np.linspace(0.2, 0.9, 32 * 32, dtype=np.float32).reshape(32, 32))
    words = ["panorama", "--image", photo, "--depth", str(tmp_path / "d.npy"), "--size", "32x128"]
    facts = run(words, model_folder, tmp_path / "out")
    assert facts["request"]["depth"] == str(tmp_path / "d.npy")


@pytest.mark.parametrize(
    ("projection", "height", "is_warned"), [("equirectangular", 64, True), ("equirectangular", 32, False), ("cylindrical", 64, False)]
)
def test_an_equirectangular_canvas_of_several_rows_of_windows_is_warned_of(
    projection: str, height: int, is_warned: bool, recwarn: pytest.WarningsRecorder
) -> None:
    request = Panorama(prompt="a", height=height, width=128, span_deg=360, projection=projection, options=options())
    if is_warned:
        with pytest.warns(JointNetWarning, match="pass a height of 32 and refine it"):
            tiny_pipeline().run(request)
    else:
        tiny_pipeline().run(request)
        assert not [w for w in recwarn if issubclass(w.category, JointNetWarning)]
