"""What can be typed: every option of the first command line, and help that needs nothing heavy."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jointnet.cli.main import main
from jointnet.tasks.options import Flag, SamplingOptions
from tests.cli.parsing import parse

SAMPLING = (
    "--model m --base b --seed 3 --steps 7 --guidance 2.5 --guidance-rescale 0.5 --scheduler dpm++ --preset release --low-res l "
    "--device cpu --negative n"
)
CANVAS = "--processing-size 64 --tiled --wrap --stride 8 --resample 2"
SCENE = "--near 1 --far 9 --disparity affine --edge-threshold 0.1"

FIRST_OPTIONS = {
    "generate PROMPT": f"{SAMPLING} --num 2 --size 32x64 -o out",
    "predict a.png": f"--prompt p --ensemble 3 {SAMPLING} {CANVAS} -o out",
    "condition d.npy PROMPT": f"--modality depth {SAMPLING} {CANVAS} -o out",
    "edit PROMPT": (
        "--image i --depth d --normal n --mask m --image-mask im --depth-mask dm --normal-mask nm --strength 0.5 "
        f"{SAMPLING} {CANVAS} -o out"
    ),
    "refine": f"--image i --depth d --normal n --prompt p --only normal --strength 0.5 --scale 2 {SAMPLING} {CANVAS} -o out",
    "panorama PROMPT": (
        f"{SAMPLING} --size 32x128 --span 360 --projection equirectangular --image i --image-fov 50 --stride 8 --resample 2 --refine 2 "
        f"{SCENE} --output out"
    ),
    "mesh i.png d.npy": f"--projection pinhole --fov 50 --span 90 {SCENE} -o x.glb",
    "info m": "--json",
    "train stage1": (
        "--from f --data d --modalities rgb,depth --size 32 --depth-near 1.5 --steps 2 --batch-size 2 --lr 0.1 --precision bfloat16 "
        "--seed 1 --device cpu --budget 1 -o run"
    ),
    "convert release f.zip": "--base b --modality depth -o out",
    "convert to-release m": "-o out",
    "demo build rgbdn stage1": "--work w --budget 1 --bundled --install",
    "demo scene": "--seed 1 --size 64 -o out",
    "demo evaluate": "--work w --steps 5 --guidance 2 --notes n --budget 1 --prompts 20 --images 100 -o page.md",
    "demo evaluate-tasks image-to-depth": "--work w --steps 5 --guidance 2 --notes n --budget 1 --bundled --scenes 20 --ensemble 2 -o p.md",
}
"""Command with its arguments -> the options it had when it was parsed by argparse, each with a value."""

COMMANDS = [
    *("generate", "predict", "condition", "edit", "refine", "panorama", "mesh", "info", "train"),
    *("convert release", "convert to-release", "demo build", "demo scene", "demo evaluate", "demo evaluate-tasks"),
]


@pytest.mark.parametrize("command", FIRST_OPTIONS)
def test_every_option_of_the_first_command_line_is_accepted(command: str) -> None:
    path, values = parse(shlex.split(f"{command} {FIRST_OPTIONS[command]}"))
    assert command.startswith(path)
    maps = {
        "condition": {"depth", "normal", "prompt"},
        "mesh": {"depth", "normal"},
        "panorama": {"depth_file"},
        "demo scene": {"num"},
        "demo build": {"device"},
        "train": {"label", "settings", "validation", "micro_batch", "trackers", "hub", "teacher"},
    }.get(path, set())
    new = {"as_json", "map_", "mask_of", "prompt_option", *maps}
    missing = {name for name, value in values.items() if value is None or value in ((), [])}
    assert missing <= new, "each option reached its parameter"


@pytest.mark.parametrize(
    ("words", "defaults"),
    [
        (
            "generate x -o o",
            {
                "model": "demo",
                "num_inference_steps": None,
                "speed": "exact",
                "seed": 0,
                "num": 1,
                "preset": "paper",
                "guidance_scale": None,
            },
        ),
        ("predict x -o o", {"model": "demo-tasks", "ensemble": 1, "num_resamples": 1, "tiled": None, "wraps": False, "stride": None}),
        ("edit --image i -o o", {"strength": 1.0, "guidance_rescale": 0.0, "negative_prompt": None}),
        ("refine --image i -o o", {"strength": 0.4, "scale": 1, "only": "both", "prompt": ""}),
        ("panorama x -o o", {"span": 180.0, "projection": "cylindrical", "image_fov": 60.0, "scale": 1, "edge_threshold": 0.05}),
        ("demo scene -o o", {"seed": 0, "size": 128}),
        ("demo evaluate", {"work": Path("runs/demo"), "output": Path("docs/demo-model.md"), "guidance": 3.0, "prompts": 500}),
        ("demo evaluate-tasks", {"output": Path("docs/tasks.md"), "scenes": 500, "ensemble": 8, "steps": 25}),
    ],
)
def test_defaults(words: str, defaults: dict[str, Any]) -> None:
    values = parse(shlex.split(words))[1]
    assert defaults.items() <= values.items()


def test_options_of_a_run_are_the_flags_of_sampling_options() -> None:
    flags: dict[str, Flag] = {f.name: f.metadata["flag"] for f in fields(SamplingOptions) if "flag" in f.metadata}
    assert {f.name for f in flags.values()} >= {"--steps", "--guidance", "--tiled", "--wrap", "--stride", "--resample", "--negative"}
    assert flags.keys() <= parse(["predict", "x", "-o", "o"])[1].keys()
    assert {"tiled", "stride", "num_resamples"}.isdisjoint(parse(["generate", "x", "-o", "o"])[1])
    assert {"stride", "num_resamples"} <= parse(["panorama", "x", "-o", "o"])[1].keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_can_be_parsed(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([*command.split(), "--help"]) == 0
    printed = capsys.readouterr().out
    examples = [line.strip() for line in printed.split("Examples:")[1].splitlines() if line.strip()]
    assert examples
    for example in examples:
        assert parse(shlex.split(example)[1:])[0] == command


def test_help_lists_panels_and_ranges(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["predict", "--help"]) == 0
    printed = capsys.readouterr().out
    for panel in ("Arguments", "Sampling", "Prompt", "Canvas", "Tiles", "Known parts", "Model", "Output"):
        assert f"─ {panel} ─" in printed
    assert "(1 to 1000)" in printed
    assert "the model's own, and 1 without a prompt" in printed
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(command.split()[0] in printed for command in COMMANDS)
    assert "--install-completion" in printed


def test_help_version_and_usage_errors_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from jointnet.cli.main import main\n"
        "words = ['--help'], ['predict', '--help'], ['--version'], ['generate', 'x', '--steps', '0'], ['mesh']\n"
        "codes = [main(each) for each in words]\n"
        "heavy = [m for m in ('torch', 'diffusers', 'transformers', 'numpy', 'PIL', 'trimesh') if m in sys.modules]\n"
        "print(codes, heavy)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "[0, 0, 0, 2, 2] []"


def test_info_mesh_and_bad_files_need_no_torch(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.linspace(0.3, 0.9, 32 * 32, dtype=np.float32).reshape(32, 32))
    Image.new("RGB", (32, 32)).save(tmp_path / "i.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "file").write_text("")
    good = [
        ["info", "demo-tasks"],
        ["mesh", "i.png", "d.npy", "-o", "below/x.glb"],
        ["mesh", "i.png", "--depth", "d.npy", "-o", "x.ply"],
    ]
    edit = ["edit", "--image", "i.png", "--depth", "d.npy", "-o", "o"]
    bad = [
        ["predict", "missing.png", "-o", "o"],
        ["predict", "text.png", "-o", "o"],
        ["predict", "missing.png", "text.png", "-o", "o"],
        ["predict", "i.png", "-o", "file/below"],
        ["predict", "i.png", "--model", "demo-bas", "-o", "o"],
        ["predict", "i.png", "--model", "demo-base", "-o", "o"],
        ["predict", "i.png", "--low-res", "none", "-o", "o"],
        ["condition", "missing.npy", "a", "-o", "o"],
        [*edit, "--mask", "missing.png"],
        [*edit, "--mask", "text.png"],
        ["refine", "--image", "i.png", "--depth", "none.png", "-o", "o"],
        ["panorama", "--image", "none.png", "-o", "o"],
        ["panorama", "a", "--depth", "d.npy", "-o", "o"],
        ["generate", "a", "-o", "file"],
        ["mesh", "i.png", "d.npy", "-o", "x.obj"],
        ["mesh", "i.png", "none.npy", "-o", "x.glb"],
        ["mesh", "i.png", "d.npy", "--near", "5", "--far", "1", "-o", "x.glb"],
        ["train", "stage1", "--from", "demo-bas", "--data", ".", "-o", "o"],
        ["train", "stage1", "--from", "demo-base", "--data", "none", "-o", "o"],
        ["train", "stage1", "--from", "demo-base", "--data", ".", "-o", "file"],
        ["convert", "to-release", "none", "-o", "o"],
        ["info", "none"],
    ]
    code = (
        "import sys\n"
        "from jointnet.cli.main import main\n"
        f"codes = [main(words) for words in {[*good, *bad]!r}]\n"
        "print(codes, [m for m in ('torch', 'diffusers', 'transformers', 'trimesh') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == f"{[0] * len(good) + [2] * len(bad)} []", done.stderr
    assert not (tmp_path / "o").exists()
    assert len(done.stderr.splitlines()) == len(bad) + 2, "of several inputs each has a line, and all"


def test_bundled_names_are_in_help_and_errors(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    for command in ("predict", "info", "train"):
        assert main([command, "--help"]) == 0
        printed = capsys.readouterr().out
        assert all(name in printed for name in ("demo,", "demo-tasks", "demo-rgbdn")), command
    assert "demo-base" in printed
    assert main(["info", "demo-bas"]) == 2
    assert "a bundled model: demo, demo-base, demo-tasks, demo-rgbdn" in capsys.readouterr().err


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "jointnet", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("jointnet ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "jointnet: error: Missing command. (see jointnet --help)"),
        (["draw"], "jointnet: error: No such command 'draw'"),
        (["generate", "-o", "o"], "jointnet generate: error: Invalid value for PROMPT: got none, expected what to draw"),
        (["generate", "a", "--prompt", "b", "-o", "o"], "got 'a' and 'b', expected it as the argument or by --prompt"),
        (["generate", "x"], "Missing option '--output' / '-o'. (see jointnet generate --help)"),
        (["generate", "x", "-o", "o", "--scheduler", "best"], "got 'best', expected one of ddim, ddpm"),
        (["edit", "--image", "i", "--map", "depth", "-o", "o"], "Invalid value for '--map': got 'depth', expected MODALITY=FILE"),
        (["edit", "--image", "i", "--map", "rgb=j", "--mask", "m", "-o", "o"], "got 2 files of rgb (i, j); pass one"),
        (["edit", "--image", "i", "--map", "heat=h.png", "-o", "o"], "jointnet edit: error: got modality 'heat'; expected one of"),
        (["condition", "a", "b", "c", "-o", "o"], "got 2 after MAP, expected one; for several maps pass --prompt"),
        (["condition", "-o", "o"], "got none, expected a file as the argument or by --map, --depth or --normal"),
        (["condition", "a ball", "--depth", "d", "-o", "o"], "which is no file; if it is the prompt, pass it by --prompt"),
        (["condition", "d.png", "--depth", "d.png", "-o", "o"], "is no file"),
        (["refine", "--image", "i", "--depth", "d", "--only", "normal", "-o", "o"], "got --only normal and maps of image, depth"),
        (["mesh", "i", "-o", "x.glb"], "got none, expected a file as the argument or by --depth"),
        (["mesh", "i", "d", "--depth", "e", "-o", "x.glb"], "got DEPTH 'd' and --depth 'e'; pass one"),
        (["mesh", "i", "d", "--map", "rgb=e", "-o", "x.glb"], "got rgb for a mesh; expected depth and, for its shading, normal"),
        (["convert"], "jointnet convert: error: Missing command."),
        (["train", "stage3", "--from", "a", "--data", "b", "-o", "c"], "got 'stage3', expected one of stage1, stage2"),
        (["demo", "build", "everything"], "jointnet demo build: error: got build step 'everything'"),
    ],
)
def test_errors_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert not printed.out


def test_an_interrupted_command_ends_with_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jointnet.cli.generate.open_model", stop)
    assert main(["generate", "x", "-o", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "jointnet generate: interrupted\n"
