"""jointnet --plugin FILE: a file of the user's own that registers modalities."""

from __future__ import annotations

from pathlib import Path

import pytest

from jointnet.cli.main import main

WARM = "import jointnet\njointnet.register_modality(jointnet.Modality(name='warm_for_test', channels=1, meaning='degrees'))\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a Python file (.py)"),
        ("x = 1\n", "registers no modality"),
        ("import jointnet\njointnet.nothing\n", "ends in AttributeError: module 'jointnet' has no attribute 'nothing'"),
        ("def (\n", "ends in SyntaxError"),
        (WARM.replace("warm_for_test", "depth"), "a modality named 'depth' is registered already"),
        (WARM.replace("channels=1", "channels=2"), "of 2 channels; expected 1 or 3"),
    ],
)
def test_a_bad_plugin_gets_one_line(
    content: str | None, message: str, registry: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "warm.py"
    if content is not None:
        path.write_text(content)
    assert main(["--plugin", str(path), "info", "demo"]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "warm.py" in error
    assert len(error.splitlines()) == 1


def test_a_file_that_is_no_python_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "warm.txt").write_text(WARM)
    assert main(["--plugin", str(tmp_path / "warm.txt"), "info", "demo"]) == 2
    assert "expected a Python file (.py)" in capsys.readouterr().err


def test_a_command_knows_what_a_plugin_registers_and_nothing_of_it_without(
    registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file's name may be that of an installed module, and the file may be named twice."""
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "data"):
        Path(name).mkdir()
    Path("mine/json.py").write_text(WARM)
    words = ["train", "stage1", "--from", "demo-base", "--modalities", "rgb,warm_for_test", "--data", "data", "-o", "run"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "got modality 'warm_for_test'" in error
    assert "--plugin FILE" in error
    assert main(["--plugin", "mine/json.py", "--plugin", "./mine/json.py", *words]) == 2
    assert "got no picture in 'data'" in capsys.readouterr().err, "the modality is known, the data are not there"
