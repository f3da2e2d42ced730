"""SyncDiffusion: windows of a panorama are drawn towards each other by the gradient of a perceptual distance (a baseline)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jointnet.errors import UnsupportedBaseError
from jointnet.sampling.loop import BeforeStep
from jointnet.types import Conditioning, Step
from jointnet.windows import Windows


@dataclass(frozen=True, kw_only=True)
class SyncDiffusion:
    """A ``SamplingOptions.before_step``: before each step, the state moves down the gradient of how far each window's picture is from one.

    Each window's picture is what it would be in the end, by the network's prediction. The gradients of overlapping windows are averaged;
    the authors step each window by itself and average the windows afterwards.

    Attributes:
        distance: (B, 3, H, W) in [-1, 1] twice -> (B,), differentiable: LPIPS in the paper.
        window, stride: in latent pixels.
        weight: of the gradient in the first step; decay: of the weight, from step to step.
        batch: windows at once.
    Source: Lee et al. (2023, SyncDiffusion), Alg. 1: weight 20, decay 0.95, the middle window is the anchor.
    """

    distance: Callable[[Tensor, Tensor], Tensor]
    window: int
    stride: int
    weight: float = 20.0
    decay: float = 0.95
    batch: int = 4

    def __call__(self, tools: Any) -> BeforeStep:
        """Return the hook of a run. Raises: UnsupportedBaseError for schedulers of flow matching."""
        alpha_bar = getattr(tools.scheduler, "alphas_cumprod", None)
        if alpha_bar is None:
            raise UnsupportedBaseError(f"got {type(tools.scheduler).__name__}; SyncDiffusion is for schedulers with alphas_cumprod")

        def picture(state: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
            """What a window's RGB would be in the end, (B, 3, H, W) in [-1, 1]."""
            predicted = tools.denoiser(state, step, conditioning)[:, 0, : state.shape[2]].float()
            x, a = state[:, 0].float(), alpha_bar.to(state.device, torch.float32)[step.t[0, 0].long()]
            x0 = {
                "epsilon": (x - (1 - a).sqrt() * predicted) / a.sqrt(),
                "v_prediction": a.sqrt() * x - (1 - a).sqrt() * predicted,
                "sample": predicted,
            }[tools.scheduler.config.prediction_type]
            return tools.codec.decode("rgb", x0) * 2 - 1

        def move(x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
            windows = Windows(canvas=(x.shape[-2], x.shape[-1]), window=self.window, stride=self.stride).at()
            middle = (x.shape[-1] - 1) / 2
            anchor_of = min(windows, key=lambda w: abs(float(w.columns.float().mean()) - middle))
            total, count = torch.zeros_like(x, dtype=torch.float32), torch.zeros(x.shape[-2:], device=x.device)
            for row in range(len(x)):
                own = conditioning.take(torch.tensor([row], device=x.device), _whole)
                anchor = picture(anchor_of.cut(x[row])[None], _of_rows(step, row, 1), own).detach()
                for start in range(0, len(windows), self.batch):
                    some = windows[start : start + self.batch]
                    rows = torch.full((len(some),), row, device=x.device)
                    at = conditioning.take(rows, _whole)
                    with torch.enable_grad():
                        states = torch.stack([w.cut(x[row]) for w in some]).detach().requires_grad_(True)
                        pictures = picture(states, _of_rows(step, row, len(some)), at)
                        loss = self.distance(pictures, anchor.expand_as(pictures)).sum()
                        gradients = torch.autograd.grad(loss, states)[0]
                    for w, gradient in zip(some, gradients, strict=True):
                        w.add_to(total[row], gradient.float())
                        if row == 0:
                            w.add_to(count, torch.ones(gradient.shape[-2:], device=x.device))
            return (x.float() - self.weight * self.decay**step.index * total / count.clamp(min=1)).to(x.dtype)

        return move


def _whole(canvas: Tensor) -> Tensor:
    """Nothing is known on a panorama, so nothing is cut."""
    return canvas


def _of_rows(step: Step, row: int, count: int) -> Step:
    return replace(step, t=step.t[row : row + 1].expand(count, -1))
