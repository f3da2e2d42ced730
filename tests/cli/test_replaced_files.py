"""A command that writes a file by its name replaces only what it wrote itself, as it wrote it; so do the files beside that one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from jointnet.cli.main import main
from tests.cli.test_user_files import depth, held, picture, refused

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {"evaluate": "demo-model", "evaluate-tasks": "tasks"}


@pytest.fixture
def words(tmp_path: Path) -> list[str | Path]:
    """A mesh command without its output."""
    return ["mesh", picture(tmp_path / "i.png"), depth(tmp_path / "d.npy")]


@pytest.mark.parametrize("suffix", [".glb", ".ply", ".GLB"])
def test_a_mesh_is_replaced_by_a_rerun_only(suffix: str, words: list[str | Path], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / f"x{suffix}"
    for _ in range(2):
        assert main([*map(str, words), "-o", str(out)]) == 0
    content = bytearray(out.read_bytes())
    for changed in (content[:-1], content + b"\0", content[:-5] + b"\1" + content[-4:], b"mine", b""):
        out.write_bytes(changed)
        assert "which this command did not write or which was changed since" in refused([*words, "-o", out], capsys, tmp_path)


def test_a_mesh_of_another_program_is_left_alone(words: list[str | Path], tmp_path: Path, capsys: Any) -> None:
    text = "ply\nformat binary_little_endian 1.0\ncomment jointnet\nelement vertex 0\nend_header\n"
    (tmp_path / "cloud.ply").write_text(text)
    (tmp_path / "link.glb").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.ply")
    for name in ("cloud.ply", "link.glb"):
        assert "would be replaced; choose another with -o" in refused([*words, "-o", tmp_path / name], capsys, tmp_path)
    assert "which is a pipe or a device" in refused([*words, "-o", tmp_path / "pipe.ply"], capsys, tmp_path)
    assert (tmp_path / "link.glb").is_symlink()


@pytest.mark.parametrize("command", PAGES)
@pytest.mark.parametrize("name", ["page.md", "page.json", "demo-samples.png"])
@pytest.mark.parametrize("content", ["mine", "{}", '{"config": {}}', '{"a": {"config": 1}}', "# Notes\n\n", "# A\n\nThe tables"])
def test_no_file_of_the_users_is_replaced_by_a_measurement(command: str, name: str, content: str, tmp_path: Path, capsys: Any) -> None:
    if command == "evaluate-tasks" and name == "demo-samples.png":
        return
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(content)
    error = refused(["demo", command, "--work", tmp_path / "work", "-o", tmp_path / "out" / "page.md"], capsys, tmp_path)
    assert f"{name}', which this command did not write" in error
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("command", PAGES)
def test_a_page_of_figures_is_replaced_by_its_own_command(command: str, tmp_path: Path, capsys: Any) -> None:
    """What is checked next is the page's notes, which are missing."""
    other = next(each for each in PAGES if each != command)
    page, words = tmp_path / f"{PAGES[command]}.md", ["--work", tmp_path / "work", "--notes", tmp_path / "none"]
    for name in (page.name, page.with_suffix(".json").name, "demo-samples.png"):
        shutil.copy(DOCS / name, tmp_path)
    assert "cannot read notes" in refused(["demo", command, *words, "-o", page], capsys, tmp_path)
    assert "did not write" in refused(["demo", other, *words, "-o", page], capsys, tmp_path)
    page.unlink()  # as a measurement leaves it that was stopped: its figures are written first
    if command == "evaluate-tasks":
        assert "cannot read notes" in refused(["demo", command, *words, "-o", page], capsys, tmp_path)


def test_pictures_of_a_measurement_that_was_stopped_are_replaced(tmp_path: Path, capsys: Any) -> None:
    words = ["demo", "evaluate", "--work", tmp_path / "work", "--notes", tmp_path / "none", "-o", tmp_path / "page.md"]
    for program, message in (("jointnet demo evaluate", "cannot read notes"), ("GIMP", "did not write")):
        mark = PngInfo()
        mark.add_text("Software", program)
        Image.new("RGB", (2, 2)).save(tmp_path / "demo-samples.png", pnginfo=mark)
        assert message in refused(words, capsys, tmp_path)


@pytest.mark.parametrize("name", ["page.json", "demo-samples.png", "page", ".", "/"])
def test_a_page_that_is_not_told_from_its_figures_is_refused(name: str, tmp_path: Path, capsys: Any) -> None:
    for command in PAGES:
        error = refused(["demo", command, "--work", tmp_path / "work", "-o", tmp_path / name], capsys, tmp_path)
        assert "expected a name that ends in .md" in error


def test_notes_are_no_figures(tmp_path: Path, capsys: Any) -> None:
    notes = tmp_path / "page.json"
    notes.write_text(json.dumps({"mine": 1}))
    for command in PAGES:
        assert "as an input" in refused(["demo", command, "--notes", notes, "-o", tmp_path / "page.md"], capsys, tmp_path)
    assert held(tmp_path) == {"page.json": b'{"mine": 1}'}
