"""Image -> maps in one step, trained end to end through the decoder (Martin Garcia et al., 2025, E2E-FT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from jointnet.codecs.codec import Codec
from jointnet.diffusion.schedule import DiscreteProcess, NoiseLevels
from jointnet.errors import UnsupportedBaseError
from jointnet.modalities.modality import get_modality
from jointnet.models.joint_unet import JointUNet
from jointnet.training.draws import Draws
from jointnet.training.objective import JointObjective
from jointnet.types import Known, Text, empty_like


class OneStepObjective(JointObjective):
    """RGB is clean, all other maps are noise at the last timestep: what one step makes of them is decoded and compared with the maps.

    Args:
        codec: decodes to three channels in [-1, 1], with gradients; see ``three_channels``.
        unconditional: the empty prompt, one row.
    Raises: UnsupportedBaseError for a base of flow matching, an upscaling one, or a network that was not prepared for a clean modality.
    Source: Martin Garcia et al. (2025), Sec. 3.3; the error is of the modality's own three channels, and fits no scale.
    """

    def __init__(self, network: JointUNet, process: Any, *, codec: Codec, unconditional: Text, **more: Any) -> None:
        if not isinstance(process, DiscreteProcess) or network.config.low_res_channels:
            raise UnsupportedBaseError("got a base of flow matching, or one that upscales; one step is trained on others only")
        if not network.config.has_independent_timesteps:
            raise UnsupportedBaseError("got a network without independent timesteps; expected one that takes a clean modality")
        super().__init__(network, process, **more)
        self.codec, self.unconditional, self.process = codec, unconditional, process

    def counted(self, draws: Draws, is_good: Tensor | None = None) -> Tensor:
        return super().counted(self._at_the_end(draws), is_good)

    def forward(
        self,
        x0: Tensor,
        text: Text,
        draws: Draws,
        *,
        is_good: Tensor | None = None,
        counts: Tensor | None = None,
        shown: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return "loss" and one entry a modality, RGB's being 0; arguments as ``JointObjective.forward``.

        Args:
            shown: the maps by modality, (B, c, H, W), at the size that the states decode to.
        """
        assert shown is not None, "the feed shows the maps"
        device = next(self.network.parameters()).device
        draws = self._at_the_end(draws)
        x0, noise, t, is_clean = (v.to(device) for v in (x0, draws.noise, draws.levels.t, draws.levels.is_clean))
        x = torch.where(is_clean[:, :, None, None, None], x0, self.process.add_noise(x0, noise, t))
        words = empty_like(text.map(lambda v: v.to(device, x0.dtype)), self.unconditional)
        asked = (~is_clean)[:, :, None, None, None].expand(-1, -1, 1, *x0.shape[-2:])
        known = Known(x0, asked) if self.network.config.has_masked_input else None

        predicted = self.network(x, t, words.embeds, known=known, added_cond_kwargs=words.added).sample[:, :, : x0.shape[2]]
        found = self.process.clean(predicted.float(), x, t)  # (B, M, C, h, w)
        errors = [found.new_zeros(len(x0))]
        for index, name in enumerate(self.modalities[1:], 1):
            target = get_modality(name).encode(shown[name]).to(device)
            errors.append((self.codec.decode(name, found[:, index]) - target).abs().mean((1, 2, 3)))
        return self.mean_errors(torch.stack(errors, 1), draws, is_good, counts)

    def _at_the_end(self, draws: Draws) -> Draws:
        """The same draws with RGB clean and all else at the last timestep."""
        t = torch.full_like(draws.levels.t, len(self.process.alpha_bar) - 1)
        is_clean = torch.zeros_like(draws.levels.is_clean)
        is_clean[:, 0] = True
        return replace(draws, levels=NoiseLevels(t, is_clean).with_clean(is_clean))


def three_channels(_modality: Any, images: Tensor) -> Tensor:
    """What a codec decodes, as it is: no clip would let a gradient through."""
    return images
