"""Training in two processes equals training in one. All run over gloo on the CPU."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from tests.training.two_processes import BATCH, KINDS, RANKS, WRAPPERS, Result, batches, new_objective, run_rank, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes computed for every wrapper and stage."""
    folder = tmp_path_factory.mktemp("two_processes")
    multiprocessing.set_forkserver_preload([run_rank.__module__])  # torch and diffusers are imported once for both
    multiprocessing.start_processes(run_rank, (folder,), nprocs=RANKS, start_method="forkserver")
    return folder


@cache
def in_one_process(stage: str) -> Result:
    objective = new_objective(stage)
    return train(objective, objective, 0, 1)


@pytest.mark.parametrize("stage", KINDS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_two_processes_equal_one_with_the_whole_batch(wrapper: str, stage: str, folder: Path) -> None:
    one, two = in_one_process(stage), torch.load(folder / f"{wrapper}-{stage}.pt")
    is_frozen, _ = KINDS[stage]
    assert any(name.startswith("gradient.network.branches.rgb") for name in one) != is_frozen
    assert any(name.startswith("gradient.network.exchanges.depth_to_rgb.input") for name in one)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(two[name], value, rtol=1e-5, atol=1e-6), name


def test_the_two_processes_hold_different_numbers_of_clean_modalities() -> None:
    """Otherwise the test above could not tell a mean of means from the mean."""
    for _, _, draws in batches(new_objective("tasks")):
        first, second = draws.levels.is_clean.view(RANKS, BATCH // RANKS, 2).sum(1)
        assert not torch.equal(first, second)
