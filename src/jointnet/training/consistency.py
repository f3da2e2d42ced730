"""Distillation to few steps, over the joint state: one call gives what the teacher reaches in many (Luo et al., 2023, LCM)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from jointnet.diffusion.schedule import DiscreteProcess
from jointnet.errors import RangeError, UnsupportedBaseError
from jointnet.models.joint_unet import JointUNet
from jointnet.training.draws import Draws
from jointnet.training.objective import JointObjective
from jointnet.types import Known, Text, empty_like

SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0
"""Of the boundary condition, as diffusers' LCMScheduler has them."""

_HUBER = 0.001


class Predict(Protocol):
    """A network on states x (B, M, C, H, W) at timesteps t (B, M)."""

    def __call__(self, network: JointUNet, x: Tensor, t: Tensor, text: Text, /) -> Tensor: ...


@dataclass(frozen=True)
class TeacherSteps:
    """The deterministic (DDIM) steps that a teacher takes.

    Attributes:
        process: the base's; count: of steps from noise to a clean state.
    Raises: RangeError unless there are at least 2, and the timesteps can be divided among them.
    """

    process: DiscreteProcess
    count: int

    def __post_init__(self) -> None:
        if self.count < 2 or len(self.process.alpha_bar) % self.count:
            raise RangeError(f"got {self.count} teacher's steps; expected a number of 2 or more that divides {len(self.process.alpha_bar)}")

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The step in which timesteps lie, of any shape: where it starts, and where it ends; the last one ends at 0."""
        stride = len(self.process.alpha_bar) // self.count
        start = (t.long() // stride + 1) * stride - 1
        return start, (start - stride).clamp(min=0)


class ConsistencyObjective(JointObjective):
    """The student's clean state at one end of a teacher's step is to be its own at the other end, where it is left alone.

    The step is guided, so that the student draws guided pictures in one call without guidance. No weight average is kept for the target.

    Args:
        teacher: the network that is distilled; student and teacher may be equal at first.
        steps: of the teacher, over the whole of the noise.
        guidance: the teacher's scale; unconditional: the empty prompt, one row.
    Raises: UnsupportedBaseError for a base of flow matching, an upscaling one, or a teacher of another kind; RangeError.
    Source: Luo et al. (2023), Sec. 4.3, Algorithm 1, at one guidance scale; the joint state takes the latent's place.
    """

    def __init__(
        self, network: JointUNet, process: Any, *, teacher: JointUNet, steps: int, guidance: float, unconditional: Text, **more: Any
    ) -> None:
        if not isinstance(process, DiscreteProcess) or network.config.low_res_channels:
            raise UnsupportedBaseError("got a base of flow matching, or one that upscales; few steps are distilled from others only")
        super().__init__(network, process, teacher=teacher, **more)
        self.steps, self.guidance, self.unconditional = TeacherSteps(process, steps), guidance, unconditional

    def forward(
        self, x0: Tensor, text: Text, draws: Draws, *, is_good: Tensor | None = None, counts: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return "loss" and one entry a modality; arguments as ``JointObjective.forward``."""
        device = next(self.network.parameters()).device
        x0, noise, is_clean = x0.to(device), draws.noise.to(device), draws.levels.is_clean.to(device)
        text = text.map(lambda v: v.to(device, x0.dtype))
        empty = empty_like(text, self.unconditional)
        known = None if draws.asked is None else Known(x0, draws.asked.to(device))
        start, end = (t.masked_fill(is_clean, 0) for t in self.steps.at(draws.levels.t.to(device)))
        shown = is_clean[:, :, None, None, None]

        def predict(network: JointUNet, x: Tensor, t: Tensor, words: Text) -> Tensor:
            predicted = network(x, t, words.embeds, known=known, added_cond_kwargs=words.added)
            return predicted.sample[:, :, : x0.shape[2]].float()

        # One guided step of the teacher
        teacher, process = self.teacher, self.steps.process
        assert teacher is not None, "built with it"
        x = torch.where(shown, x0, process.add_noise(x0, noise, start))
        with torch.no_grad():
            guided = self._guided(predict, teacher, x, start, text, empty)
            found = process.clean(guided, x, start)
            x_end = torch.where(shown, x0, process.move(found, x, start, end))
            target = self._consistent(predict, x_end, end, text)

        # The student at both ends
        error = self._consistent(predict, x, start, text) - target
        errors = ((error.square() + _HUBER**2).sqrt() - _HUBER).mean((2, 3, 4))  # (B, M)
        return self.mean_errors(errors, draws, is_good, counts)

    def _guided(self, predict: Predict, network: JointUNet, x: Tensor, t: Tensor, text: Text, empty: Text) -> Tensor:
        negative, positive = predict(network, x, t, empty), predict(network, x, t, text)
        return negative + self.guidance * (positive - negative)

    def _consistent(self, predict: Predict, x: Tensor, t: Tensor, text: Text) -> Tensor:
        """f(x_t, t) = c_skip(t) x_t + c_out(t) x_0(x_t, t), which is x_t at t = 0."""
        scaled = TIMESTEP_SCALING * t.float()[:, :, None, None, None]
        c_skip = SIGMA_DATA**2 / (scaled.square() + SIGMA_DATA**2)
        c_out = scaled / (scaled.square() + SIGMA_DATA**2).sqrt()
        return c_skip * x + c_out * self.steps.process.clean(predict(self.network, x, t, text), x, t)
