"""Distillation to few steps: its steps against diffusers' solvers, its loss on tiny networks, and a model that says how it draws."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler
from torch import Tensor

from jointnet.diffusion.schedule import DiscreteProcess, FlowProcess
from jointnet.errors import RangeError, UnsupportedBaseError
from jointnet.models.joint_unet import JointUNet
from jointnet.training.consistency import ConsistencyObjective, TeacherSteps
from jointnet.types import Text
from tests.bases import network_inputs, perturbed, tiny_unet

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
EMPTY = Text(torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(5)))


def process_of(prediction_type: str = "epsilon") -> DiscreteProcess:
    return DiscreteProcess(DDIMScheduler(**BETAS).alphas_cumprod, prediction_type)


def objective_of(network: JointUNet, teacher: JointUNet, **more: float) -> ConsistencyObjective:
    settings = {"steps": 50, "guidance": 3.0, **more}
    return ConsistencyObjective(network, process_of(), teacher=teacher, unconditional=EMPTY, **settings)  # pyright: ignore[reportArgumentType] - of both


def states() -> tuple[Tensor, Tensor, Tensor]:
    """Clean states, noise, and timesteps that differ."""
    g = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(4, 2, 4, 8, 8, generator=g), torch.randn(4, 2, 4, 8, 8, generator=g)
    return x0, noise, torch.tensor([[19, 39], [499, 519], [899, 879], [979, 999]])


def test_timesteps_lie_in_the_steps_of_a_solver() -> None:
    steps = TeacherSteps(process_of(), 50)
    start, end = steps.at(torch.tensor([0, 19, 20, 500, 999]))
    assert start.tolist() == [19, 19, 39, 519, 999]
    assert end.tolist() == [0, 0, 19, 499, 979]
    solver = LCMScheduler(**BETAS, original_inference_steps=50)
    solver.set_timesteps(50, original_inference_steps=50)
    assert set(start.tolist()) <= set(solver.timesteps.tolist())
    for count in (1, 3, 0):
        with pytest.raises(RangeError, match="teacher's steps"):
            TeacherSteps(process_of(), count)


@torch.no_grad()
def test_the_consistent_state_is_the_one_that_diffusers_solver_reads() -> None:
    network = perturbed(JointUNet.from_unet(tiny_unet("sd2")))
    objective, (x, _, _) = objective_of(network, copy.deepcopy(network)), states()
    text = Text(torch.randn(4, 7, 32))
    solver = LCMScheduler(**BETAS, original_inference_steps=50)
    solver.set_timesteps(4)

    def predict(net: JointUNet, state: Tensor, t: Tensor, words: Text) -> Tensor:
        return net(state, t, words.embeds).sample

    for t in solver.timesteps.tolist():
        at = torch.full((4, 2), t)
        theirs = solver.step(predict(network, x, at, text), t, x, generator=torch.Generator()).denoised
        assert torch.allclose(objective._consistent(predict, x, at, text), theirs, atol=1e-4)
    at_zero = objective._consistent(predict, x, torch.zeros(4, 2, dtype=torch.long), text)
    assert torch.allclose(at_zero, x)


def test_the_student_learns_and_the_teacher_does_not() -> None:
    teacher = perturbed(JointUNet.from_unet(tiny_unet("sd2")))
    before = copy.deepcopy(teacher.state_dict())
    network = copy.deepcopy(teacher)
    objective, (x0, _, _) = objective_of(network, teacher), states()
    text, draws = Text(torch.randn(4, 7, 32)), objective.draw(x0, torch.Generator().manual_seed(3))
    optimizer, losses = torch.optim.Adam(network.parameters(), lr=1e-3), []
    for _ in range(12):
        found = objective(x0, text, draws)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        losses.append(float(found["loss"].detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert {id(p) for p in objective.parameters()} == {id(p) for p in network.parameters()}


@torch.no_grad()
def test_clean_modalities_stay_as_they_are_and_count_for_nothing() -> None:
    network = JointUNet.from_unet(tiny_unet("sd2"))
    network.register_to_config(has_independent_timesteps=True)
    objective, (x0, _, _) = objective_of(network, copy.deepcopy(network)), states()
    draws = objective.draw(x0.repeat(8, 1, 1, 1, 1), torch.Generator().manual_seed(0))
    assert draws.levels.is_clean.any()
    losses = objective(x0.repeat(8, 1, 1, 1, 1), Text(torch.randn(32, 7, 32)), draws)
    assert losses["loss"].isfinite()
    only = draws.take(draws.levels.is_clean[:, 0])
    some = x0.repeat(8, 1, 1, 1, 1)[draws.levels.is_clean[:, 0]]
    assert objective(some, Text(torch.randn(len(some), 7, 32)), only)["rgb"] == 0


@torch.no_grad()
def test_what_an_empty_prompt_does_not_state_is_the_texts_own() -> None:
    """SDXL's text carries sizes."""
    network, inputs = JointUNet.from_unet(tiny_unet("sdxl")), network_inputs("sdxl", 4, 2)
    text = Text(inputs["encoder_hidden_states"], inputs["added_cond_kwargs"])
    empty = Text(text.embeds[:1] * 0, {"text_embeds": text.added["text_embeds"][:1] * 0})
    objective = ConsistencyObjective(network, process_of(), teacher=copy.deepcopy(network), steps=50, guidance=3.0, unconditional=empty)
    x0 = inputs["sample"]
    assert objective(x0, text, objective.draw(x0, torch.Generator().manual_seed(0)))["loss"].isfinite()


def test_bases_that_cannot_be_distilled_are_refused() -> None:
    network = JointUNet.from_unet(tiny_unet("sd2"))
    with pytest.raises(UnsupportedBaseError, match="flow matching"):
        ConsistencyObjective(network, FlowProcess(), teacher=network, steps=50, guidance=3.0, unconditional=EMPTY)
    upscaling = JointUNet.from_unet(tiny_unet("if-2"))
    with pytest.raises(UnsupportedBaseError, match="upscales"):
        ConsistencyObjective(upscaling, process_of(), teacher=upscaling, steps=50, guidance=3.0, unconditional=EMPTY)
