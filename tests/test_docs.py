"""What the documentation tells people to type can be typed, and the files it shows are there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import run as benchmarks
from jointnet.demo.measure.page import load_figures
from jointnet.demo.measure.report import write_report
from jointnet.demo.measure.tasks_report import write_tasks_report
from tests.cli.parsing import parse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands_of(page: Path) -> list[str]:
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```$", page.read_text(), re.S | re.M)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip().startswith("jointnet ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_is_one_the_program_takes(page: Path) -> None:
    for command in commands_of(page):
        words = shlex.split(command, comments=True)[1:]
        assert parse(words)[0].split()[0] == words[0]


@pytest.mark.parametrize(("name", "write"), [("tasks", write_tasks_report), ("demo-model", write_report)])
def test_pages_of_figures_are_what_their_command_writes(name: str, write: Callable[..., None], tmp_path: Path) -> None:
    docs = ROOT / "docs"
    write(load_figures(docs / f"{name}.json"), tmp_path / "page.md", (docs / f"{name}-notes.md").read_text())
    assert (tmp_path / "page.md").read_text() == (docs / f"{name}.md").read_text()


def test_the_page_of_benchmarks_is_what_its_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "FIGURES", tmp_path / "benchmarks.json")
    benchmarks.write(load_figures(ROOT / "docs" / "benchmarks.json"))
    assert (tmp_path / "benchmarks.md").read_text() == (ROOT / "docs" / "benchmarks.md").read_text()


def test_the_readme_and_the_guide_show_commands() -> None:
    shown = {shlex.split(c)[1] for page in PAGES for c in commands_of(page)}
    assert {"generate", "predict", "condition", "edit", "refine", "panorama", "mesh", "train"} <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_file_a_page_links_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing
