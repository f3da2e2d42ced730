"""What MODALITY=NAME[:WEIGHTS] means."""

from __future__ import annotations

import pickle
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from jointnet.data.labelers import registry
from jointnet.data.labelers.labeler import Labeler
from jointnet.data.labelers.network import NetworkLabeler
from jointnet.data.labelers.normals_from_depth import NormalsFromDepth
from jointnet.data.labelers.registry import LabelerChoice, about_labelers, get_labeler, labeler_names, parse_label
from jointnet.errors import ModelFolderError, RangeError, ShapeError, UnknownNameError
from tests.data.labelers import own
from tests.data.labelers.networks import pictures, save_dpt

OWN = "tests.data.labelers.own"


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub's cache without models."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("depth=midas", LabelerChoice("depth", "midas")),
        ("depth=midas:/a/b:c", LabelerChoice("depth", "midas", "/a/b:c")),
        ("normal=omnidata:x.ckpt", LabelerChoice("normal", "omnidata", "x.ckpt")),
        ("depth=marigold:owner/name", LabelerChoice("depth", "marigold", "owner/name")),
        ("normal=from-depth:midas:/a", LabelerChoice("normal", "from-depth", "midas:/a")),
        ("albedo=jointnet:my-model", LabelerChoice("albedo", "jointnet", "my-model")),
        ("depth=package.module:function", LabelerChoice("depth", "package.module:function")),
        ("depth=package.module:Class:/a/b", LabelerChoice("depth", "package.module:Class", "/a/b")),
    ],
)
def test_a_label_is_read_as_it_is_written(text: str, choice: LabelerChoice) -> None:
    assert parse_label(text) == (choice.modality, choice)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("midas", "expected MODALITY=NAME"),
        ("=midas", "expected MODALITY=NAME"),
        ("depth=", "expected MODALITY=NAME"),
        ("depth=midas:", "expected MODALITY=NAME"),
        ("depth=midsa", "expected one of depth-anything, from-depth, jointnet, marigold, midas, omnidata"),
        ("depth=midsa:/weights", "expected one of depth-anything"),
        ("normal=midas", "midas makes depth"),
        ("rgb=marigold", "marigold makes depth and normal"),
        ("normal=from-depth", "from-depth:midas"),
        ("normal=from-depth:omnidata", "omnidata makes normal"),
    ],
)
def test_a_label_that_means_nothing_is_refused(text: str, problem: str) -> None:
    with pytest.raises(UnknownNameError, match=problem):
        parse_label(text)


@pytest.mark.parametrize("text", ["depth=midas", "normal=omnidata", "depth=depth-anything", "normal=marigold", "normal=from-depth:midas"])
def test_missing_weights_are_named_in_one_line_with_what_to_do(text: str, empty_cache: Path) -> None:
    choice = parse_label(text)[1]
    for act in (choice.check, choice):
        with pytest.raises(ModelFolderError, match=r"got no weights of .* hf download \S+/\S+") as raised:
            act()
        assert "\n" not in str(raised.value)


def test_weights_that_are_not_there_are_refused(empty_cache: Path) -> None:
    with pytest.raises(ModelFolderError, match="'/nowhere/midas' of midas, where there is nothing"):
        parse_label("depth=midas:/nowhere/midas")[1].check()
    with pytest.raises(ModelFolderError, match="hf download somebody/depth"):
        parse_label("depth=midas:somebody/depth")[1].check()


def test_weights_in_the_hubs_cache_are_taken(empty_cache: Path) -> None:
    repository = empty_cache / "models--Intel--dpt-hybrid-midas"
    save_dpt(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert isinstance(get_labeler("depth=midas"), NetworkLabeler)


def test_reading_a_label_and_looking_for_its_weights_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from jointnet.data.labelers.registry import parse_label, labeler_names, about_labelers; labeler_names();"
        f"about_labelers(); parse_label('depth=midas:{tmp_path}')[1].check();"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_every_labeler_of_ours_is_listed_with_its_modalities() -> None:
    assert set(about_labelers()) <= set(labeler_names())
    assert "(depth, normal)" in about_labelers()["marigold"]


def test_a_choice_can_be_sent_to_workers() -> None:
    choice = parse_label("normal=from-depth:midas:/a")[1]
    assert pickle.loads(pickle.dumps(choice)) == choice


def test_a_function_is_a_labeler() -> None:
    labeler = get_labeler(f"depth={OWN}:red")
    rgb = pictures(2)
    assert isinstance(labeler, Labeler)
    assert torch.equal(labeler(rgb), rgb[:, :1])
    assert labeler.to("cpu").fingerprint() == labeler.fingerprint() != get_labeler(f"depth={OWN}:in_metres").fingerprint()


def test_a_class_gets_modality_and_weights_and_an_instance_is_taken_as_it_is() -> None:
    assert get_labeler(f"depth={OWN}:Green:/w").fingerprint() == "green /w"
    assert get_labeler(f"normal={OWN}:Green").modality == "normal"
    assert get_labeler(f"depth={OWN}:GREEN") is own.GREEN


@pytest.mark.parametrize(
    ("name", "error"),
    [("half_size", ShapeError), ("two_channels", ShapeError), ("in_metres", RangeError), ("not_finite", RangeError)],
)
def test_maps_of_a_function_that_cannot_be_meant_are_refused_by_its_name(name: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"{OWN}:{name}"):
        get_labeler(f"depth={OWN}:{name}")(pictures(1))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"depth={OWN}:nothing", "cannot be imported"),
        ("depth=no_such_package:function", "cannot be imported"),
        (f"depth={OWN}:UNUSABLE", "a int; expected a function"),
        (f"normal={OWN}:GREEN", "it makes depth"),
        (f"heat={OWN}:red", "got modality 'heat'"),
    ],
)
def test_what_is_no_labeler_is_refused(text: str, problem: str) -> None:
    with pytest.raises(UnknownNameError, match=problem):
        get_labeler(text)


def test_a_module_in_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "labels_of_mine.py").write_text("def blue(rgb):\n    return rgb[:, 2:]\n")
    rgb = pictures(1)
    assert torch.equal(get_labeler("depth=labels_of_mine:blue")(rgb), rgb[:, 2:])


def test_an_installed_package_adds_a_labeler_and_does_not_replace_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(**_group: Any) -> list[EntryPoint]:
        return [EntryPoint("theirs", f"{OWN}:Green", "jointnet.labelers"), EntryPoint("midas", f"{OWN}:red", "jointnet.labelers")]

    monkeypatch.setattr(registry, "entry_points", installed)
    assert "theirs" in labeler_names()
    assert get_labeler("depth=theirs:weights.pt").fingerprint() == "green weights.pt"
    assert parse_label("depth=midas")[1].name == "midas"
    with pytest.raises(ModelFolderError):
        parse_label("depth=midas:/nowhere/else")[1]()


def test_normals_from_another_labelers_depth(tmp_path: Path) -> None:
    folder = save_dpt(tmp_path / "midas")
    labeler = get_labeler(f"normal=from-depth:midas:{folder}")
    assert isinstance(labeler, NormalsFromDepth)
    maps = labeler(pictures(2, 40, 64))
    assert maps.shape == (2, 3, 40, 64)
    torch.testing.assert_close(maps.norm(dim=1), torch.ones(2, 40, 64), atol=1e-5, rtol=0)
