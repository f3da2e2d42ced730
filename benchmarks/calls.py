"""What a run calls: how often each kind of call of the joint network comes in a picture made at a speed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jointnet.models.joint_unet import JointUNet
from jointnet.sampling.shortcuts import Shortcuts
from jointnet.sampling.speed import Speed
from jointnet.types import Conditioning, Kept, Shortcut, Step, Text


@dataclass(frozen=True)
class Call:
    """A kind of call.

    Attributes:
        rows: of the batch, for one picture: 2 where guided.
        shortcut: what it leaves out; None: nothing. It holds nothing that was kept.
    """

    rows: int
    shortcut: Shortcut | None = None


def calls_of(speed: Speed, modalities: tuple[str, ...] = ("rgb", "depth")) -> Mapping[Call, int]:
    """Kind -> how often, for one picture from a prompt. A test of what has changed is taken to find that little has."""
    shortcuts, found = Shortcuts(speed, modalities), Counter[Call]()
    for index in range(speed.steps):
        rows = 1 + speed.is_guided(index, speed.steps)
        words = Conditioning(Text(torch.empty(rows, 0)), is_pair=rows == 2)
        state = torch.empty(rows, len(modalities), 0, 0, 0)
        shortcut = shortcuts.of(state, Step(index, speed.steps, torch.zeros(1, len(modalities))), words)
        found[Call(rows, None if shortcut is None else replace(shortcut, kept=None, tolerance=None))] += 1
    return found


def prepare(network: JointUNet, call: Call, x: Tensor, t: Tensor, text: Tensor) -> Shortcut | None:
    """The shortcut of a call with all in it that earlier calls would have kept. Shapes: x (B, M, C, H, W), t (B, M), text (B, L, D)."""
    if call.shortcut is None:
        return None
    ready = replace(call.shortcut, kept=Kept())
    if ready.is_shallow or ready.resting:
        run(network, replace(ready, is_shallow=False, resting=frozenset(), keeps_sent=True), x, t, text)
    return ready


def run(network: JointUNet, shortcut: Shortcut | None, x: Tensor, t: Tensor, text: Tensor) -> Any:
    """One call, without gradients."""
    with torch.no_grad():
        return network(x, t, text, shortcut=shortcut)
