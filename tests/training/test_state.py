"""A run's state on disk: it comes back, belongs to one run, and a write that fails leaves the one before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from jointnet.errors import RunFolderError
from jointnet.training import state
from jointnet.training.state import Progress, claim, load_state, save_state


def trained(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small network after one step."""
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(4, 3)).square().mean().backward()
    optimizer.step()
    return model, optimizer


def test_a_state_comes_back(tmp_path: Path) -> None:
    model, optimizer = trained(0)
    save_state(tmp_path, model, [model.weight.detach() / 2], optimizer, Progress(step=7, curve=[{"step": 7, "loss": 0.5}]))
    other, its_optimizer = trained(1)
    average = [torch.zeros(2, 3)]
    assert load_state(tmp_path, other, average, its_optimizer) == Progress(step=7, curve=[{"step": 7, "loss": 0.5}])
    assert torch.equal(other.weight, model.weight)
    assert torch.equal(average[0], model.weight / 2)
    ours, theirs = (one.state_dict()["state"][0]["exp_avg"] for one in (optimizer, its_optimizer))
    assert torch.equal(ours, theirs)
    assert load_state(tmp_path / "new", other, average, its_optimizer) == Progress()


def test_a_write_that_fails_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = trained(0)
    save_state(tmp_path, model, None, optimizer, Progress(step=1))

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_state(tmp_path, model, None, optimizer, Progress(step=2))
    assert load_state(tmp_path, model, None, optimizer).step == 1
    assert [path.name for path in tmp_path.iterdir()] == [state.STATE_FILE]


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    claim(tmp_path, {"recipe": "stage1"}, commit="a")
    claim(tmp_path, {"recipe": "stage2"})  # no state yet
    model, optimizer = trained(0)
    save_state(tmp_path, model, None, optimizer, Progress(step=1))
    claim(tmp_path, {"recipe": "stage2"}, commit="b")
    with pytest.raises(RunFolderError, match="recipe stage2, now stage1"):
        claim(tmp_path, {"recipe": "stage1"})
    with pytest.raises(RunFolderError, match="trains other weights"):
        load_state(tmp_path, model, [model.weight.detach()], optimizer)
