"""jointnet evaluate: whole commands with models of a user's own, stopped, shared, refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jointnet.cli.main import main
from jointnet.evaluation.bulk import BulkFolder, generate_all
from jointnet.evaluation.data.readers import open_truth

PEER = '''
import torch

class Exact:
    """Knows the truth: bright is near."""
    def predict(self, rgb, seeds):
        return {"disparity_affine_invariant": 3 * rgb[:, 0] - 1}

class Metric:
    def predict(self, rgb, seeds):
        normal = torch.tensor([0.0, 0.6, 0.8])[:, None, None].expand(len(rgb), 3, *rgb.shape[-2:])
        return {"depth_metric": 1 / rgb[:, 0].clamp(min=0.05), "normal": normal}

class Smooth:
    """Knows the mean of each row."""
    def predict(self, rgb, seeds):
        return {"disparity_affine_invariant": rgb[:, 0].mean(-1, keepdim=True).expand_as(rgb[:, 0])}

class NotFinite:
    def predict(self, rgb, seeds):
        return {"depth_metric": rgb[:, 0] * float("nan")}

class OtherShape:
    def predict(self, rgb, seeds):
        return {"depth_metric": rgb}

class NoMethods:
    pass

class Bare:
    def predict(self, rgb, seeds):
        return rgb[:, 0]

class Nothing:
    def predict(self, rgb, seeds):
        pass

class OneArgument:
    def predict(self, rgb):
        return {}

class Raises:
    def predict(self, rgb, seeds):
        raise RuntimeError("out of memory\\nsecond line")

class BrokenNormals:
    def predict(self, rgb, seeds):
        normal = torch.zeros(len(rgb), 3, *rgb.shape[-2:])
        normal[..., 0, 0] = float("nan")
        return {"depth_metric": 1 / rgb[:, 0].clamp(min=0.05), "normal": normal}

class InfiniteSky:
    """Exact, and infinite in the upper rows."""
    def predict(self, rgb, seeds):
        depth = 1 / rgb[:, 0].clamp(min=0.05)
        depth[:, :4] = float("inf")
        return {"depth_metric": depth}

class Turned:
    """Exact, but with its sides exchanged."""
    def predict(self, rgb, seeds):
        return {"disparity_affine_invariant": rgb[:, 0].transpose(1, 2)}

class BelowZero:
    def predict(self, rgb, seeds):
        return {"depth_metric": 1 / rgb[:, 0].clamp(min=0.05) - 5}

class Bytes:
    def generate(self, prompts, seeds):
        return {"rgb": torch.full((len(seeds), 3, 16, 16), 255.0)}

class NoPicture:
    def generate(self, prompts, seeds):
        return {"depth": torch.zeros(len(seeds), 1, 16, 16)}

class Listed:
    def generate(self, prompts, seeds):
        return {"rgb": [None for _ in seeds]}

class Fewer:
    def generate(self, prompts, seeds):
        return {"rgb": torch.zeros(1, 3, 16, 16)}

class ChannelsLast:
    def generate(self, prompts, seeds):
        return {"rgb": torch.zeros(len(seeds), 16, 16, 3)}

class WideGrey:
    """Panoramas without depth."""
    def generate(self, prompts, seeds):
        return {"rgb": torch.full((len(seeds), 3, 32, 64), 0.5)}

class Noise:
    def generate(self, prompts, seeds):
        pictures = [torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return {"rgb": torch.stack(pictures), "depth": torch.stack(pictures)[:, :1]}

class Wide:
    """Grey panoramas of 32 x 64; an odd seed has a step in the middle."""
    def generate(self, prompts, seeds):
        pictures = torch.full((len(seeds), 3, 32, 64), 0.5)
        for place, seed in enumerate(seeds):
            pictures[place, :, :, 32:] += 0.3 * (seed % 2)
        return {"rgb": pictures, "depth": pictures[:, :1]}

class Narrow:
    def generate(self, prompts, seeds):
        return {"rgb": torch.rand(len(seeds), 3, 32, 40), "depth": torch.rand(len(seeds), 1, 32, 40)}

class Broken:
    def __init__(self):
        raise KeyError("weights")
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A peer's file, ten pictures whose red is their disparity, prompts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "peer.py").write_text(PEER)
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(0)
    for i in range(10):
        red = rng.integers(30, 255, (16, 24)).astype(np.uint8)
        Image.fromarray(np.stack([red] * 3, -1)).save(tmp_path / "data" / f"{i}.png")
        np.save(tmp_path / "data" / f"{i}.depth.npy", (255 / red.astype(np.float64)).astype(np.float32))
        np.save(tmp_path / "data" / f"{i}.normal.npy", np.full((16, 24, 3), (0, 0, 1), np.float32))
    (tmp_path / "prompts.txt").write_text("\n".join(f"picture {i}" for i in range(9)) + "\n\n")
    return tmp_path


def depth(*arguments: str) -> int:
    return main(["evaluate", "depth", *arguments])


def result(folder: str) -> dict:
    return json.loads((Path(folder) / "result.json").read_text())


@pytest.mark.usefixtures("place")
def test_a_peer_that_knows_the_truth_has_no_error_and_the_protocol_is_stated() -> None:
    assert depth("peer.py:Exact", "--data", "folder:data", "-o", "out") == 0
    found = result("out")
    assert found["figures"]["images"] == 10
    assert found["figures"]["depth"]["abs_rel"] < 1e-4
    assert found["figures"]["depth"]["delta1"] == 1
    assert {"alignment", "space", "resolution", "mask", "clipping_m", "seed"} <= found["protocol"].keys()
    assert found["commit"]


@pytest.mark.usefixtures("place")
def test_metric_depth_is_not_aligned_and_normals_are_pooled_as_asked() -> None:
    assert depth("peer.py:Metric", "--data", "folder:data", "-o", "out") == 0
    assert depth("peer.py:Metric", "--data", "folder:data", "--pooling", "pixel", "-o", "pixel") == 0
    found = result("out")["figures"]
    assert found["depth"]["abs_rel"] < 1e-4
    angle = float(np.degrees(np.arccos(0.8)))
    assert found["normal"]["mean"] == pytest.approx(angle, abs=1e-3)
    assert result("pixel")["figures"]["normal"]["median"] == pytest.approx(angle, abs=0.01)


@pytest.mark.usefixtures("place")
def test_surfaces_are_compared_once_the_lens_is_known() -> None:
    for model in ("Exact", "Smooth"):
        assert depth(f"peer.py:{model}", "--data", "folder:data", "--fov", "60", "-o", model) == 0
    assert depth("peer.py:Exact", "--data", "folder:data", "-o", "without") == 0
    exact, smooth = (result(model)["figures"]["depth"]["relative_normal"] for model in ("Exact", "Smooth"))
    assert exact < 0.01 < smooth
    assert "relative_normal" not in result("without")["figures"]["depth"]


@pytest.mark.usefixtures("place")
def test_a_stopped_evaluation_goes_on_and_gives_the_same() -> None:
    assert depth("peer.py:Exact", "--data", "folder:data", "-o", "out") == 0
    whole = result("out")["figures"]
    next(Path("out/units").iterdir()).unlink()
    Path("out/result.json").unlink()
    assert depth("peer.py:Exact", "--data", "folder:data", "-o", "out") == 0
    assert result("out")["figures"] == whole


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(place: Path) -> None:
    arguments = ["evaluate", "generation", "peer.py:Noise", "--prompts", "prompts.txt", "--reference", "data", "--few", "--batch", "2"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "jointnet", *arguments]
    done = subprocess.run([*launch, "-o", "two"], cwd=place, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert main([*arguments, "-o", "one"]) == 0
    one, two = (result(name)["figures"]["eff-lite0"] for name in ("one", "two"))
    assert two["FD-EffLite0"] == pytest.approx(one["FD-EffLite0"], rel=1e-6)  # as many threads as processes leave each
    assert two["KID"]["mean"] == pytest.approx(one["KID"]["mean"], rel=1e-5)
    pictures = [sorted(Path(name, "pictures").rglob("*.png")) for name in ("one", "two")]
    assert [path.read_bytes() for path in pictures[0]] == [path.read_bytes() for path in pictures[1]]
    assert len(pictures[0]) == 9


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("peer.py:NoMethods", "--data", "folder:data"), "without predict; expected a method predict(rgb, seeds)"),
        (("peer.py:None", "--data", "folder:data"), "there is no None in peer.py"),
        (("peer.py:Broken", "--data", "folder:data"), "KeyError"),
        (("none.py:Exact", "--data", "folder:data"), "which is no file"),
        (("midas:nowhere", "--data", "folder:data"), "which is no folder"),
        (("peer.py:NotFinite", "--data", "folder:data"), "10 with a prediction that is not finite"),
        (("peer.py:BrokenNormals", "--data", "folder:data"), "10 with a prediction that is not finite"),
        (("peer.py:OtherShape", "--data", "folder:data"), "got depth_metric of (4, 3, 16, 24); expected (4, H, W)"),
        (("peer.py:Bare", "--data", "folder:data"), "got a Tensor from predict of peer.py:Bare; expected predict(rgb, seeds)"),
        (("peer.py:Nothing", "--data", "folder:data"), "got a NoneType from predict of peer.py:Nothing"),
        (("peer.py:OneArgument", "--data", "folder:data"), "peer.py:OneArgument: predict ends in TypeError"),
        (("peer.py:Raises", "--data", "folder:data"), "predict ends in RuntimeError: out of memory; correct it"),
        (("peer.py:Turned", "--data", "folder:data"), "of 24x16 for pictures of 16x24; expected their aspect"),
        (("peer.py:BelowZero", "--data", "folder:data"), "10 with a predicted depth below 0"),
        (("peer.py:Exact", "--data", "folder:data", "--num", "11"), "got 10 samples in folder:data; expected 11"),
        (("peer.py:Exact", "--data", "folder:data", "--steps", "5"), "got --steps for 'peer.py:Exact', which takes no setting"),
        (("demo", "--data", "folder:data", "--guidance", "5"), "got --guidance for 'demo', which takes --steps and --ensemble to predict"),
        (("peer.py", "--data", "folder:data"), "got model 'peer.py' without a class; expected peer.py:CLASS"),
        (("peer.py:Exact", "--data", "folder:"), "got '', which is no folder"),
        (("midas:", "--data", "folder:data"), "got midas:, which is no folder"),
        (("peer.py:Exact", "--data", "folder:data", "--alignment", "median"), "for predicted disparity; expected disparity or paper"),
        (("peer.py:Exact", "--data", "data"), "expected NAME:FOLDER"),
        (("peer.py:Exact", "--data", "folder:."), "in which there is no sample"),
    ],
)
def test_bad_input_of_depth_is_one_line(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert depth(*arguments, "-o", "out") == 2
    *progress, line = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert all(" of " in other for other in progress)
    assert not Path("out/result.json").exists()


@pytest.mark.usefixtures("place")
def test_samples_without_ground_truth_are_counted() -> None:
    np.save("data/0.depth.npy", np.full((16, 24), np.inf, np.float32))
    assert depth("peer.py:Exact", "--data", "folder:data", "-o", "out") == 0
    assert result("out")["figures"]["left_out"] == {"no pixel with ground truth": 1}
    assert result("out")["figures"]["images"] == 9


@pytest.mark.usefixtures("place")
def test_an_infinite_sky_without_ground_truth_costs_nothing_and_with_it_the_picture() -> None:
    assert depth("peer.py:InfiniteSky", "--data", "folder:data", "-o", "all") == 2
    for file in Path("data").glob("*.depth.npy"):
        known = np.load(file)
        known[:4] = np.inf
        np.save(file, known)
    assert depth("peer.py:InfiniteSky", "--data", "folder:data", "-o", "out") == 0
    assert result("out")["figures"]["images"] == 10
    assert result("out")["figures"]["depth"]["abs_rel"] < 1e-4


@pytest.mark.usefixtures("place")
def test_a_class_that_was_corrected_is_measured_anew(capsys: pytest.CaptureFixture[str]) -> None:
    assert depth("peer.py:Smooth", "--data", "folder:data", "-o", "out") == 0
    Path("peer.py").write_text(PEER.replace("rgb[:, 0].mean(-1, keepdim=True).expand_as(rgb[:, 0])", "rgb[:, 0]"))
    assert depth("peer.py:Smooth", "--data", "folder:data", "-o", "out") == 2
    assert "of another model_contents" in capsys.readouterr().err
    assert depth("peer.py:Smooth", "--data", "folder:data", "-o", "new") == 0
    assert result("new")["figures"]["depth"]["abs_rel"] < 1e-4


@pytest.mark.usefixtures("place")
def test_truth_that_was_changed_is_compared_anew(capsys: pytest.CaptureFixture[str]) -> None:
    assert depth("peer.py:Metric", "--data", "folder:data", "-o", "out") == 0
    np.save("data/0.depth.npy", 2 * np.load("data/0.depth.npy"))
    assert depth("peer.py:Metric", "--data", "folder:data", "-o", "out") == 2
    assert "of another data_contents" in capsys.readouterr().err


@pytest.mark.usefixtures("place")
def test_a_class_that_was_wrong_leaves_its_folder_free() -> None:
    assert depth("peer.py:Raises", "--data", "folder:data", "-o", "out") == 2
    assert depth("peer.py:Exact", "--data", "folder:data", "-o", "out") == 0


@pytest.mark.usefixtures("place")
def test_figures_that_not_all_images_have_say_how_many_do() -> None:
    """Edges are compared only where the truth has hardly a hole."""
    holed = np.load("data/0.depth.npy")
    holed[:8] = np.inf
    np.save("data/0.depth.npy", holed)
    Path("data/1.normal.npy").unlink()
    assert depth("peer.py:Metric", "--data", "folder:data", "-o", "out") == 0
    assert result("out")["figures"]["images_of"] == {"boundary_f1": 9, "normal": 9}


@pytest.mark.usefixtures("place")
def test_normals_with_channels_first_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("data/3.normal.npy", np.zeros((3, 16, 24), np.float32))
    assert depth("peer.py:Metric", "--data", "folder:data", "-o", "out") == 2
    assert "got normals of shape (24, 3, 16); expected (3, H, W)" in capsys.readouterr().err


@pytest.mark.usefixtures("place")
def test_disparity_of_demo_scenes_is_read_as_what_it_is() -> None:
    assert main(["demo", "scene", "--num", "2", "--size", "32", "-o", "scenes"]) == 0
    sample = open_truth("folder:scenes").read(0)
    disparity = np.load(sorted(Path("scenes").glob("*.depth.npy"))[0])
    valid = sample.valid.numpy()
    assert valid.any()
    assert np.allclose(sample.depth_m.numpy()[valid], 1.5 / disparity[valid], rtol=1e-4)
    assert not valid[disparity == 0].any()


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NoPicture", "got depth from peer.py:NoPicture; expected generate(prompts, seeds)"),
        ("Listed", "got rgb of list from peer.py:Listed; expected (9, 3, H, W)"),
        ("Fewer", "got rgb of (1, 3, 16, 16) from peer.py:Fewer; expected (9, 3, H, W)"),
        ("ChannelsLast", "got rgb of (9, 16, 16, 3)"),
        ("Bytes", "got rgb from 255 to 255 of peer.py:Bytes; expected numbers in [0, 1]"),
    ],
)
def test_pictures_of_another_form_are_one_line(name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "generation", f"peer.py:{name}", "--prompts", "prompts.txt", "--batch", "9", "-o", "out"]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


@pytest.mark.slow
@pytest.mark.usefixtures("place")
def test_panoramas_without_depth_are_measured_by_their_pictures() -> None:
    assert main(["evaluate", "panorama", "peer.py:WideGrey", "--prompts", "prompts.txt", "--num", "2", "-o", "out"]) == 0
    found = result("out")["figures"]
    assert found["panoramas"] == 2
    assert not [name for name in found if "depth" in name]


@pytest.mark.usefixtures("place")
def test_a_folder_of_another_evaluation_or_of_the_users_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert depth("peer.py:Exact", "--data", "folder:data", "-o", "out") == 0
    assert depth("peer.py:Metric", "--data", "folder:data", "-o", "out") == 2
    assert "of another model" in capsys.readouterr().err
    assert depth("peer.py:Exact", "--data", "folder:data", "-o", "data") == 2
    assert "is none of ours" in capsys.readouterr().err


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--prompts", "prompts.txt", "--reference", "data"), "needs more than its 1280 dimensions"),
        (("--prompts", "prompts.txt", "--reference", "units"), "without a picture"),
        (("--prompts", "none.txt"), "cannot read prompts"),
        (("--prompts", "prompts.txt", "--num", "100"), "got 9 prompts"),
        (("--prompts", "coco:"), "expected COCO's captions"),
        (("--prompts", "prompts.txt", "--num", "1", "--reference", "data", "--few"), "got 1 picture of the model"),
        (("--prompts", "coco:."), "expected COCO's captions"),
        (("--prompts", "prompts.txt", "--features", "vgg"), "expected one of eff-lite0"),
        (("--prompts", "prompts.txt", "--features", "clip"), "expected clip:FOLDER"),
        (("--prompts", "prompts.txt", "--features", "inception:peer.py"), "cannot load Inception's weights"),
    ],
)
def test_bad_input_of_generation_is_one_line(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "generation", "peer.py:Noise", *arguments, "-o", "out"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert not Path("out/pictures").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("place")
def test_panoramas_of_a_peer_are_measured_at_wrap_tiles_and_poles() -> None:
    sphere = ["--span", "360", "--projection", "equirectangular", "--reference", "out/pictures", "--few"]
    command = ["evaluate", "panorama", "peer.py:Wide", "--prompts", "prompts.txt", "--num", "2"]
    assert main([*command, "-o", "out"]) == 0
    assert main([*command, *sphere, "-o", "sphere"]) == 0
    flat, round_ = result("out")["figures"], result("sphere")["figures"]
    assert flat["panoramas"] == 2
    assert flat["seams_tiles_rgb"] > 10
    assert flat["intra_distance"] > 0
    assert flat["between_tiles_rgb"] < 2
    assert {"seam_wrap_rgb", "seam_wrap_depth", "seams_poles_rgb", "OmniFD-EffLite0"} <= round_.keys()
    assert round_["OmniFD-EffLite0"] == pytest.approx(0, abs=1e-3)  # the reference are the same pictures


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("peer.py:Narrow",), "at least twice as wide as high"),
        (("peer.py:Wide", "--reference", "data"), "views need --span 360"),
        (("peer.py:Wide", "--distance", "ssim"), "expected one of eff-lite0, lpips"),
        (("peer.py:Wide", "--distance", "lpips:none.pth"), "which is no file"),
        (("peer.py:Exact",), "without generate"),
    ],
)
def test_bad_input_of_panoramas_is_one_line(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "panorama", *arguments, "--prompts", "prompts.txt", "-o", "out"]) == 2
    *progress, line = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert all(" of " in other for other in progress)


class Counting:
    """Makes pictures of its seeds, and stops where it is told."""

    def __init__(self, stop_after: int = 1000) -> None:
        self.calls, self.stop_after = 0, stop_after

    def generate(self, prompts: list[str], seeds: list[int]) -> dict[str, torch.Tensor]:
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        return {"rgb": torch.stack([torch.full((3, 4, 4), seed / 100) for seed in seeds]), "depth": torch.rand(len(prompts), 1, 4, 4)}


def test_bulk_generation_goes_on_where_it_stopped_and_makes_nothing_twice(tmp_path: Path) -> None:
    folder, prompts = BulkFolder(tmp_path / "bulk", ("depth",)), [f"prompt {i}" for i in range(11)]
    first, second = Counting(stop_after=2), Counting()
    with pytest.raises(KeyboardInterrupt):
        generate_all(first, prompts, folder, seed=5, batch=3, known_by={"model": "a"})
    generate_all(second, prompts, folder, seed=5, batch=3, known_by={"model": "a"})
    assert (first.calls, second.calls) == (2, 2)
    for number in range(11):
        assert np.asarray(Image.open(folder.picture(number)))[0, 0, 0] == round(255 * (5 + number) / 100)
        assert folder.map_file(number, "depth").is_file()
