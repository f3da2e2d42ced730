"""How jointnet train shows what it would do, where its curve and its model go, and what it caches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from jointnet.cli.main import main
from jointnet.pipelines.joint_net import JointNetPipeline
from jointnet.training.state import read_progress
from tests.cli.test_train import SHORT, base, data
from tests.hub import TOKEN, Hub, running_hub

__all__ = ["base", "data"]


def words(base: Path, data: Path, run: Path, *more: str, recipe: str = "stage1") -> list[str]:
    return ["train", recipe, "--from", str(base), "--data", str(data), "-o", str(run), *SHORT, "--size", "32", *more]


def test_a_dry_run_shows_what_would_be_trained(data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(words(base, data, run, "--dry-run", "--json")) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["samples"], facts["epochs"], facts["micro_batch"], facts["forwards_a_step"]) == (4, 1.0, 2, 1)
    assert facts["config"]["size"] == 32
    assert set(facts["captions"]) <= {"a red ball", "a ball", "a box"}
    assert facts["memory_gib"].keys() == {"weights", "optimizer", "average", "step", "total"}
    assert sorted(path.name for path in run.iterdir()) == ["dry-run.png"]
    with Image.open(run / "dry-run.png") as picture:
        assert picture.size == (2 * 32, 2 * 32), "two samples of a picture and its depth"
    assert main(words(base, data, run, "--dry-run", "--label", "depth=tests.data.labelers.own:red")) == 0
    printed = capsys.readouterr().out
    assert "lr = 0.0001\n" in printed
    assert "4 samples, 1 epochs; a step of 2: 1 process(es) x 1 forward(s) x 2 samples" in printed
    assert main(words(base, data, run)) == 0
    assert (run / "model").is_dir()


def test_a_dry_run_without_one_good_sample(data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in data.glob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    assert main(words(base, data, tmp_path / "run", "--dry-run")) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert not (tmp_path / "run").exists()


def test_the_curve_goes_to_tensorboard_if_it_is_there(data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(base, data, tmp_path / "with", "--log-every", "1")) == 0
    assert list((tmp_path / "with").rglob("logs/**/events.out.tfevents.*"))
    assert main(words(base, data, tmp_path / "without", "--trackers", "none")) == 0
    assert not (tmp_path / "without" / "logs").exists()
    capsys.readouterr()
    for given, expected in (("notes", "got tracker 'notes'; expected some of"), ("clearml", "pip install clearml")):
        assert main(words(base, data, tmp_path / "bad", "--trackers", given)) == 2
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()


def test_captions_that_are_encoded_once_change_nothing(data: Path, base: Path, tmp_path: Path) -> None:
    models = {}
    for cached in ("false", "true"):
        run = tmp_path / cached
        assert main(words(base, data, run, "--set", f"caches_text={cached}", "--set", "text_drop=0.5", "--steps", "6")) == 0
        models[cached] = JointNetPipeline.from_pretrained(run / "model").joint_unet.state_dict()
    assert read_progress(tmp_path / "true", {}).curve == read_progress(tmp_path / "false", {}).curve
    for name, value in models["true"].items():
        assert torch.equal(value, models["false"][name]), name


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["--set", "caches_text=true", "--set", "crop=random"], "got caches_text without cached latents"),
        (["--set", "caches_text=true", "--set", "caches_latents=false"], "got caches_text without cached latents"),
        (["--set", "caches_text=true", "--set", "trains_text_encoder=true"], "got caches_text with trains_text_encoder"),
    ],
)
def test_captions_that_cannot_be_cached(
    settings: list[str], expected: str, data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(base, data, tmp_path / "run", *settings)) == 2
    assert expected in capsys.readouterr().err


def test_a_recipe_of_the_paper_chooses_modalities_and_size(
    data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = ["--label", "normal=tests.data.labelers.own:up", "--dry-run", "--json", "--batch-size", "2", "--precision", "float32"]
    start = ["train", "sd21-normal-stage1", "--from", str(base), "--data", str(data), "-o", str(tmp_path / "run")]
    assert main([*start, *labelled, "--steps", "3"]) == 0
    config = json.loads(capsys.readouterr().out)["config"]
    assert (config["modalities"], config["size"], config["freeze_rgb"]) == (["rgb", "normal"], 512, True)
    assert (config["optim"]["lr"], config["optim"]["warmup_steps"], config["optim"]["steps"]) == (1e-4, 1000, 3)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as running:
        yield running


def pushed(arguments: list[str], hub: Hub, tmp_path: Path, token: str) -> subprocess.CompletedProcess[str]:
    # the library reads its address and token when it is imported
    settings = {"HF_ENDPOINT": hub.address, "HF_TOKEN": token, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "jointnet", *arguments]
    return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)


def test_a_model_is_pushed_to_the_hub(data: Path, base: Path, hub: Hub, tmp_path: Path) -> None:
    run = tmp_path / "run"
    push = words(base, data, run, "--push-to-hub", "me/depth")
    refused = pushed(push, hub, tmp_path, "hf_wrong")
    assert refused.returncode == 2
    assert "cannot write to 'me/depth' on the hub" in refused.stderr
    assert not run.exists(), "known before anything is trained"

    hub.is_full = True
    failed = pushed(push, hub, tmp_path, TOKEN)
    assert failed.returncode == 2
    assert "the model is saved: run the command again" in failed.stderr
    hub.is_full = False
    done = pushed(push, hub, tmp_path, TOKEN)
    assert done.returncode == 0, done.stderr
    assert "nothing is trained" in done.stderr, "only the upload is tried again"
    files = {path.relative_to(run / "model").as_posix(): path.read_bytes() for path in (run / "model").rglob("*") if path.is_file()}
    assert hub.repos["me/depth"] == files
