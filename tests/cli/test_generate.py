from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from jointnet.cli.main import main
from jointnet.errors import OutputError
from jointnet.files.result_set import write_result_set
from jointnet.modalities.modality import files_of_maps
from jointnet.modalities.write import FloatArray
from tests.conftest import read_png, tiny_pipeline

FILES = ["depth.npy", "depth.png", "depth_preview.png", "image.png", "result.json"]


def generate(model: Path, out: Path, *more: str) -> int:
    return main(["generate", "a red ball", "--model", str(model), "--steps", "2", "-o", str(out), *more])


def test_the_files_of_a_run(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(model_folder, tmp_path / "out", "--seed", "7") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES
    depth = np.load(tmp_path / "out" / "depth.npy")
    assert depth.dtype == np.float32
    assert depth.shape == (32, 32)
    png = read_png(tmp_path / "out" / "depth.png") / 65535
    assert np.abs(png - depth.clip(0, 1)).max() <= 1 / 65535
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["prompt"], result["seed"], result["scheduler"]) == ("a red ball", 7, "DDIMScheduler")
    assert (result["sampling"]["num_inference_steps"], result["sampling"]["guidance_scale"]) == (2, 7.5)
    assert "disparity" in result["meaning"]["depth"]
    assert result["seconds"] > 0
    assert "torch" in result["versions"]
    printed = capsys.readouterr()
    assert printed.out.split() == [
        str(tmp_path / "out" / n) for n in ("image.png", "depth.png", "depth.npy", "depth_preview.png", "result.json")
    ]
    assert "it/s" not in printed.err


def test_a_seed_gives_identical_files(model_folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert generate(model_folder, tmp_path / name, "--seed", "7") == 0
    for name in FILES[:-1]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_speed_is_named_in_the_result_and_brings_its_scheduler(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(model_folder, tmp_path / "out", "--speed", "fast") == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["sampling"]["speed"] == "fast"
    for option in (["--scheduler", "euler"], ["--preset", "release"]):
        assert generate(model_folder, tmp_path / "none", "--speed", "fast", *option) == 2
        assert f"got {' '.join(option)} with --speed fast, which brings the scheduler dpm++" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_all_bits_of_a_seed_count(model_folder: Path, tmp_path: Path) -> None:
    """torch's generator on the CPU keeps 32 bits: 4294967301 is 2**32 + 5."""
    for name, seed in (("a", "5"), ("b", "4294967301")):
        command = ["generate", "a red ball", "--model", str(model_folder), "--seed", seed, "--steps", "1"]
        assert main([*command, "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / "a" / "depth.npy").read_bytes() != (tmp_path / "b" / "depth.npy").read_bytes()


def test_a_result_that_is_not_finite_gets_one_line_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tiny_pipeline()
    with torch.no_grad():
        broken.joint_unet.branch("depth").conv_out.bias.fill_(float("inf"))
    broken.save_pretrained(tmp_path / "model")
    capsys.readouterr()  # bars of saving
    command = ["generate", "a red ball", "--model", str(tmp_path / "model"), "--steps", "1", "-o", str(tmp_path / "out")]
    assert main(command) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert "NaN or infinite" in error
    assert not (tmp_path / "out").exists()


def test_numbered_sets_continue_the_seed(model_folder: Path, tmp_path: Path) -> None:
    assert generate(model_folder, tmp_path / "many", "--seed", "5", "--num", "2") == 0
    assert generate(model_folder, tmp_path / "one", "--seed", "6") == 0
    assert sorted(p.name for p in (tmp_path / "many").iterdir()) == ["1", "2"]
    assert (tmp_path / "many" / "2" / "depth.npy").read_bytes() == (tmp_path / "one" / "depth.npy").read_bytes()


def test_another_size(model_folder: Path, tmp_path: Path) -> None:
    assert generate(model_folder, tmp_path, "--size", "48x64") == 0
    assert read_png(tmp_path / "image.png").shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "expected a whole number from 1 to 1000"),
        (["--steps", "many"], "expected a whole number"),
        (["--num", "-1"], "expected a whole number"),
        (["--seed", "1.5"], "expected a whole number"),
        (["--seed", str(2**64)], "expected a whole number"),
        (["--guidance", "nan"], "expected a number from 0 to 100"),
        (["--guidance", "inf"], "expected a number"),
        (["--guidance", "1e9"], "expected a number"),
        (["--guidance-rescale", "2"], "expected a number from 0 to 1"),
        (["--size", "128"], "expected HEIGHTxWIDTH"),
        (["--size", "x"], "expected HEIGHTxWIDTH"),
        (["--size", "-8x8"], "expected"),
        (["--size", "33x32"], "multiples of 2"),
        (["--size", "0x0"], "expected sides from 1"),
        (["--nonsense"], "No such option"),
    ],
)
def test_bad_input_gets_one_line_and_code_2(
    arguments: list[str], message: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = generate(model_folder, tmp_path / "out", *arguments)
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.rglob("*.p*"))


def broken_models(tmp_path: Path, good: Path) -> dict[str, Path]:
    """Folders that are no joint model, each in its own way."""
    folders = {name: tmp_path / name for name in ("empty", "kind", "json", "weights")}
    for folder in folders.values():
        folder.mkdir()
    (folders["kind"] / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (folders["json"] / "model_index.json").write_text("{")
    for path in good.rglob("*"):
        copy = folders["weights"] / path.relative_to(good)
        if path.is_dir():
            copy.mkdir(exist_ok=True)
        else:
            data = path.read_bytes()
            copy.write_bytes(data[: len(data) // 2] if path.suffix == ".safetensors" and path.parent.name == "joint_unet" else data)
    return {**folders, "missing": tmp_path / "missing", "file": good / "model_index.json"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "is no folder"),
        ("file", "is no folder"),
        ("empty", "without model_index.json"),
        ("kind", "StableDiffusionPipeline"),
        ("json", "broken"),
        ("weights", "cannot load"),
    ],
)
def test_a_bad_model_folder_gets_one_line(
    name: str, message: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(broken_models(tmp_path, model_folder)[name], tmp_path / "out") == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_an_output_that_cannot_be_written_is_known_before_the_work(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert generate(model_folder, out) == 2
        assert "cannot write to output folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_unknown_words_are_named_and_known_ones_listed(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vocabulary = model_folder / "vocabulary.json"
    vocabulary.write_text(json.dumps({"shapes": ["ball"], "rest": ["a", "red"]}))
    try:
        main(["generate", "a red Dragon ball", "--model", str(model_folder), "--steps", "1", "-o", str(tmp_path)])
    finally:
        vocabulary.unlink()
    assert "warning: this model never saw the words dragon; it knows shapes: ball; rest: a, red" in capsys.readouterr().err


def test_a_prompt_too_long_warns_and_goes_on(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a " * 30 + "cone cone", "--model", str(model_folder), "--steps", "1", "-o", str(tmp_path)]) == 0
    warning, done = capsys.readouterr().err.strip().splitlines()
    assert warning.endswith("cut: 'cone cone'")
    assert done.startswith("done")
    assert (tmp_path / "image.png").exists()


@pytest.mark.parametrize("bundled", [pytest.param(False, marks=pytest.mark.slow), True])
def test_nothing_reaches_for_the_network(bundled: bool, model_folder: Path, tmp_path: Path) -> None:
    """In a process in which opening any socket to the outside raises, with the hub's libraries not told to stay offline."""
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise SystemExit('reached for the network')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
        "from jointnet.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    arguments = ["generate", "a red ball", *([] if bundled else ["--model", str(model_folder)]), "--steps", "1", "-o", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower()


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["--help"], ["generate", "--help"], ["train", "--help"], ["demo", "build", "--help"]):
        assert main(arguments) == 0
    assert "jointnet 0.1.0" in capsys.readouterr().out


def test_a_write_that_fails_leaves_the_earlier_set_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full at the last file of the second set."""
    maps = {"rgb": torch.rand(3, 8, 8), "depth": torch.rand(1, 8, 8)}
    write_result_set(tmp_path, files_of_maps(maps), {"seed": 1})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(self: FloatArray, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FloatArray, "write", full)
    with pytest.raises(OutputError, match="No space left on device; free space"):
        write_result_set(tmp_path, files_of_maps({name: 1 - value for name, value in maps.items()}), {"seed": 2})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_size_no_memory_could_hold_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a red ball", "--size", "8000000x8000000", "-o", str(tmp_path)]) == 2
    assert "sides from 1 to 65536" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_named(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(model_folder, tmp_path / "cpu", "--device", "cpu") == 0
    capsys.readouterr()
    for name in ("xpu:7", "gpu"):
        assert generate(model_folder, tmp_path / name, "--device", name) == 2
        error = capsys.readouterr().err
        assert f"got --device {name}, which cannot be used here" in error
        assert len(error.strip().splitlines()) == 1
