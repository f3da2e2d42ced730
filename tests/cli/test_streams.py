"""File names and prompts that are no UTF-8, terminals with few letters, readers that went away (K16)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image

from jointnet.cli.arguments import parse_text
from jointnet.cli.main import main

PROGRAM = [sys.executable, "-m", "jointnet"]
ODD = os.fsdecode(b"f\xfcr.png")
"""A Latin-1 name, as old archives have it."""


def run(*words: str | bytes, stdout: int | IO[Any] = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*PROGRAM, *words], stdout=stdout, stderr=subprocess.PIPE, env={**os.environ, **environment}, check=False, timeout=300
    )


def test_a_file_name_that_is_no_utf_8_is_read_and_written(model_folder: Path, tmp_path: Path, capsysbinary: Any) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / ODD)
    out = tmp_path / os.fsdecode(b"\xff")
    words = ["predict", str(tmp_path / ODD), "--model", str(model_folder), "--steps", "1", "-o", str(out)]
    assert main(words) == 0
    assert json.loads((out / "result.json").read_text(encoding="utf-8"))["request"]["image"] == str(tmp_path / ODD)
    assert main([*words, "--json"]) == 0
    capsysbinary.readouterr()


def test_its_bytes_are_printed_as_they_are(tmp_path: Path) -> None:
    out = os.fsencode(tmp_path) + b"/f\xfcr"
    done = run(b"demo", b"scene", b"--num", b"1", b"--size", b"16", b"-o", out)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == out + b"/result.json"
    assert done.stderr == b""


@pytest.mark.parametrize(
    "words", [["generate", "a \udcff"], ["generate", "a", "--negative", "\udcff"], ["predict", "a.png", "--prompt", "\udcff"]]
)
def test_a_prompt_that_is_no_utf_8_is_refused(words: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "which is not UTF-8" in error
    assert len(error.strip().splitlines()) == 1


def test_a_terminal_of_ascii_shows_what_it_can(tmp_path: Path) -> None:
    ascii_only = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C", "COLUMNS": "100"}
    out = tmp_path / "für"
    done = run("demo", "scene", "--num", "1", "--size", "16", "-o", str(out), **ascii_only)
    assert (done.returncode, done.stderr) == (0, b"")
    assert os.fsencode(out) + b"/result.json" in done.stdout.splitlines()
    printed = run("demo", "scene", "--num", "1", "--size", "16", "-o", str(out), "--json", **ascii_only).stdout
    assert os.fsencode(json.loads(printed)["output"]) == os.fsencode(out)
    for words in (["--help"], ["predict", "--help"]):
        done = run(*words, **ascii_only)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"Options" in done.stdout
    done = run("generate", "ein süßer Ball", "--model", str(tmp_path / "süß"), "-o", "out", **ascii_only)
    assert done.returncode == 2
    assert b"which is no folder" in done.stderr


def test_letters_that_a_stream_lacks_are_escaped(tmp_path: Path) -> None:
    done = run("info", str(tmp_path / "süß"), PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert b"s\\xfc\\xdf" in done.stderr
    done = run("demo", "scene", "--num", "1", "--size", "16", "-o", str(tmp_path / "süß"), PYTHONIOENCODING="ascii")
    assert b"s\\xfc\\xdf/result.json" in done.stdout


def test_a_prompt_of_utf_8_is_one_in_every_locale() -> None:
    assert parse_text("süß") == "süß"
    assert parse_text("süß".encode().decode("ascii", "surrogateescape")) == "süß"


@pytest.mark.parametrize("words", [["--help"], ["info", "demo", "--json"], ["info", "demo"]])
def test_a_reader_that_went_away_gets_no_traceback(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run(*words, stdout=writing)
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_stdout_gets_one_line() -> None:
    with open("/dev/full", "wb") as full:
        done = run("info", "demo", stdout=full)
    assert done.returncode == 2
    assert done.stderr == b"jointnet: error: cannot write to stdout: No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_are_closed_swallow_what_is_printed(closed: str, tmp_path: Path) -> None:
    for words, code in (("info demo", 0), ("info nowhere", 2)):
        done = subprocess.run(
            ["sh", "-c", f"{sys.executable} -m jointnet {words} {closed}"], capture_output=True, check=False, cwd=tmp_path
        )
        assert done.returncode == code
        assert b"Traceback" not in done.stderr
        assert b"error" not in done.stdout
