"""A branch of a joint network: two halves, with hidden states between them that branches exchange."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Channels:
    """Channels at the points where branches meet.

    Attributes:
        state: of the noisy map that the branch reads, and sends to the others.
        input: of its first layer's output, to which the others' noisy maps are added.
        skips: of its skips, in the order of ``Features.skips``.
        mid: of its mid block's output.
    """

    state: int
    input: int
    skips: tuple[int, ...]
    mid: int


class Features(NamedTuple):
    """Hidden states between the halves of a branch.

    ``skips`` and ``mid``, each (B, c, h, w), are sent to the other branches and take what they send; ``private`` is read by the branch's
    own decoder only.
    """

    skips: list[Tensor]
    mid: Tensor
    private: tuple[Tensor, ...] = ()


DecoderPart = Literal["whole", "deep", "shallow"]
"""All upward layers; all but the last ones, giving the hidden state between; or the last ones, which go on from it."""


class Branch(Protocol):
    """One modality's network: an ``nn.Module`` whose halves run through its ``__call__``, on which hooks, DDP and FSDP2 hang."""

    @property
    def channels(self) -> Channels: ...

    @property
    def most_layers(self) -> int:
        """The most ``layers`` that the shallow part of a branch can have."""
        ...

    def encode(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        received_input: Tensor | int,
        *,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        layers: int | None = None,
    ) -> Features:
        """Run the first half; with ``layers``, only what gives the first so many skips: then ``mid`` means nothing.

        Shapes: sample (B, C, H, W); timestep (B,); text (B, L, D); ``received_input`` (B, channels.input, H, W) is added to the first
        layer's output, 0 if there is no other branch.
        """
        ...

    def decode(
        self, features: Features, cross_attention_kwargs: dict[str, Any] | None = None, *, part: DecoderPart = "whole", layers: int = 0
    ) -> Tensor:
        """Run the second half on own plus received features. Returns the prediction (B, C_out, H, W).

        "deep" stops before the last ``layers`` upward layers and returns the hidden state there; "shallow" goes on from it, where it stands
        in ``features.mid``'s place beside the first ``layers`` skips.
        """
        ...
