"""The estimate of a step's memory, against what the allocator reports."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from jointnet.models.joint_unet import JointUNet
from jointnet.recipes import stage1
from jointnet.training.config import RunOptions
from jointnet.training.joint import joint_objective
from jointnet.training.memory import estimate_memory, peak_bytes
from jointnet.types import Text
from tests.bases import tiny_unet
from tests.training.test_objective import PROCESS, seeded


def test_peak_of_tensors_that_are_alive_at_once() -> None:
    def run() -> torch.Tensor:
        first = torch.zeros(1000)
        second = first * 2
        del first
        return second.view(10, 100).sum()

    assert peak_bytes(run) == 8000


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "is_checkpointed"), [("float32", False), ("bfloat16", True)])
def test_the_estimate_is_what_a_step_allocates(precision: str, is_checkpointed: bool) -> None:
    config = replace(stage1(), optim=replace(stage1().optim, precision=precision, ema_decay=0.9))
    network = JointUNet.from_unet(tiny_unet("sd1"))
    objective = joint_objective(network, PROCESS, config)
    x0, text = torch.randn(4, 2, 4, 32, 32, generator=seeded()), Text(torch.randn(4, 7, 32, generator=seeded()))
    draws = objective.draw(x0, seeded())
    options = RunOptions(has_gradient_checkpointing=is_checkpointed)
    estimate = estimate_memory(objective, 100, x0, text, draws, config.optim, options, 1)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert (estimate.optimizer, estimate.average) == (8 * trained, 4 * trained)
    assert estimate.weights == 100 + sum(4 * p.numel() for p in network.parameters())

    if is_checkpointed:
        network.enable_gradient_checkpointing()
    network.train()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as allocations:
        with torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext():
            loss = objective(x0, text, draws)["loss"]
        loss.backward()
    now, peak = 0, 0
    events = [event for event in allocations.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda one: one.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    assert estimate.step == pytest.approx(peak, rel=0.1)
