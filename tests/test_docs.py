"""What the documentation tells people to type can be typed, and the files it shows are there."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import run as benchmarks
from benchmarks import scaling
from jointnet.cli.main import main
from jointnet.demo.bundled import BUNDLED, WEIGHTS, bundled_folder
from jointnet.demo.measure.page import load_figures, write_page
from jointnet.demo.measure.report import write_report
from jointnet.demo.measure.tasks_report import write_tasks_report
from jointnet.modalities import registered_modalities
from jointnet.pipelines.joint_net import JointNetPipeline
from tests.cli.parsing import parse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands_of(page: Path) -> list[str]:
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```$", page.read_text(), re.S | re.M)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip().startswith("jointnet ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_is_one_the_program_takes(page: Path) -> None:
    for command in commands_of(page):
        words = shlex.split(command, comments=True)[1:]
        assert parse(words)[0].split()[0] in words


@pytest.fixture
def shortened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Runs of three steps and ensembles of two, in a folder of their own."""
    run_request = JointNetPipeline.run

    def run(pipeline: JointNetPipeline, request: Any) -> Any:
        options = replace(request.options, num_inference_steps=3)
        if not hasattr(request, "ensemble"):
            return run_request(pipeline, replace(request, options=options))
        generator = options.generator[:2] if isinstance(options.generator, list) else options.generator
        return run_request(pipeline, replace(request, ensemble=min(2, request.ensemble), options=replace(options, generator=generator)))

    monkeypatch.setattr(JointNetPipeline, "run", run)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def execute(command: str) -> None:
    words = shlex.split(command, comments=True)
    if words[0] == "jointnet":
        assert main(words[1:]) == 0, command
    else:
        assert words[:2] == ["python", "-c"], command
        exec(words[2], {})


def python_of(page: Path) -> str:
    return "".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M))


@pytest.mark.slow
def test_all_code_of_the_guide_runs(shortened: Path, registry: None, capsys: pytest.CaptureFixture[str]) -> None:
    guide = ROOT / "docs" / "guide.md"
    blocks = re.findall(r"^```sh(?: model=([\w-]+))?\n(.*?)^```", guide.read_text(), re.S | re.M)
    assert len(blocks) > 10
    for model, commands in blocks:
        if not model or (WEIGHTS / BUNDLED[model]).is_dir():
            for command in commands.strip().splitlines():
                execute(command)
    exec(python_of(guide), {})
    assert (shortened / "wide.glb").exists()
    capsys.readouterr()


@pytest.mark.usefixtures("shortened")
def test_all_code_of_the_page_of_speed_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs" / "speed.md"
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.S | re.M):
        for command in block.strip().splitlines():
            execute(command)
    exec(python_of(page), {})
    assert Path("out/fast/scene.glb").exists()
    capsys.readouterr()


def test_all_code_of_the_page_of_labels_runs(shortened: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that has the page's module."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "labels.md").read_text(), re.S | re.M)
    module = next(block for block in blocks if block.startswith("# my_labels.py"))
    Path("my_labels.py").write_text(module)
    monkeypatch.setattr(sys, "path", [*sys.path])
    exec("".join(block for block in blocks if block != module), {})


def test_the_definition_of_an_own_modality_runs(registry: None) -> None:
    definition = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "own-modality.md").read_text(), re.S | re.M)[0]
    exec(definition, {})
    assert "albedo" in registered_modalities()


def script(name: str) -> Any:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_code_of_the_readme_runs(shortened: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """But for training, which the slow test runs, and the commands of weights from elsewhere."""
    recorded = script("record_commands")
    commands = [command for command in recorded.readme_commands() if not command.startswith("jointnet train")]
    assert len(commands) > 5
    for command in [*recorded.README_INPUTS.strip().splitlines(), *commands]:
        execute(command.replace("out/depth.npy", "readme1/depth.npy"))
    exec(python_of(ROOT / "README.md").replace("path/to/stable-diffusion-2-1-base", str(bundled_folder("demo-base"))), {})
    capsys.readouterr()


@pytest.mark.slow
def test_the_readmes_training_runs(shortened: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = script("record_commands")
    for command in [
        *recorded.README_INPUTS.strip().splitlines(),
        *(c for c in recorded.readme_commands() if c.startswith("jointnet train")),
    ]:
        execute(command)
    assert (shortened / "runs" / "tasks" / "model" / "model_index.json").exists()
    capsys.readouterr()


@pytest.mark.parametrize(("name", "write"), [("tasks", write_tasks_report), ("demo-model", write_report)])
def test_pages_of_figures_are_what_their_command_writes(name: str, write: Callable[..., None], tmp_path: Path) -> None:
    docs = ROOT / "docs"
    write(load_figures(docs / f"{name}.json"), tmp_path / "page.md", (docs / f"{name}-notes.md").read_text())
    assert (tmp_path / "page.md").read_text() == (docs / f"{name}.md").read_text()


def test_the_page_of_benchmarks_is_what_its_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "FIGURES", tmp_path / "benchmarks.json")
    benchmarks.write(load_figures(ROOT / "docs" / "benchmarks.json"))
    assert (tmp_path / "benchmarks.md").read_text() == (ROOT / "docs" / "benchmarks.md").read_text()


def test_the_plan_for_many_gpus_is_what_its_command_writes(tmp_path: Path) -> None:
    write_page(tmp_path / "scaling.md", scaling.page(load_figures(scaling.PAGE.with_suffix(".json"))))
    assert (tmp_path / "scaling.md").read_text() == scaling.PAGE.read_text()


def test_the_figures_of_the_page_of_an_own_modality_are_what_their_command_writes(tmp_path: Path) -> None:
    page = ROOT / "docs" / "own-modality.md"
    copy = tmp_path / page.name
    copy.write_text(page.read_text())
    script("run_own_modality").write(load_figures(page.with_suffix(".json")), copy)
    assert copy.read_text() == page.read_text()


def test_the_readme_and_the_guide_show_commands() -> None:
    shown = {shlex.split(c)[1] for page in PAGES for c in commands_of(page)}
    assert {"generate", "predict", "condition", "edit", "refine", "panorama", "mesh", "train"} <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_file_a_page_links_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing
