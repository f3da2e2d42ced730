"""The authors' checkpoints: every sample they return, to a relative error of 1e-4."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jointnet.checkpoints.release import read_release, write_release
from jointnet.errors import ModelFolderError

SAMPLES = Path(__file__).parents[1] / "release-samples"


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("/tmp/jointnet-pickle-was-run"),))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    shutil.copytree(SAMPLES / "finetune" / "release", tmp_path / "release")
    return tmp_path / "release"


def test_a_release_goes_both_ways(release: Path, tmp_path: Path) -> None:
    joint = read_release(release)
    write_release(joint, tmp_path / "again")
    for branch in ("unet", "jointnet"):
        name = f"{branch}/diffusion_pytorch_model.safetensors"
        theirs, ours = load_file(release / name), load_file(tmp_path / "again" / name)
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[k], ours[k]) for k in theirs)


def test_a_pickle_that_holds_code_is_refused_and_not_run(release: Path) -> None:
    (release / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    marker = Path("/tmp/jointnet-pickle-was-run")
    marker.unlink(missing_ok=True)
    torch.save({"conv_in.weight": Evil()}, release / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelFolderError, match="more than tensors"):
        read_release(release)
    assert not marker.exists()
