"""The paper's trivial alternative: one U-Net with more channels at both ends (Sec. 3.1, Fig. 2a)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

from jointnet.errors import ShapeError, UnknownNameError
from jointnet.models.joint_unet import JointUNetOutput, per_modality, whole_config

OutputInit = Literal["zeros", "random", "copy"]
OUTPUT_INITS: tuple[OutputInit, ...] = ("zeros", "random", "copy")
"""How the output layer's new channels begin: the three that Sec. 3.1 names."""


class DirectExtend(ModelMixin, ConfigMixin):
    """All modalities as the channels of one U-Net. It takes the place of a ``JointUNet`` in training and in pipelines.

    It has neither masked input nor independent timesteps, and does not preserve the base's output.

    Args:
        unet_config: config of the base's U-Net, or the part of it that differs from the defaults.
        modalities: names, "rgb" first.
        depth_near_m, default_guidance, default_steps, force_zeros_for_empty_prompt: as ``JointUNet``'s.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        unet_config: dict[str, Any],
        modalities: Sequence[str] = ("rgb", "depth"),
        has_masked_input: bool = False,
        has_independent_timesteps: bool = False,
        low_res_channels: int = 0,
        branch: str = "full",
        depth_near_m: float | None = None,  # noqa: ARG002 - read from the config
        default_guidance: float | None = None,  # noqa: ARG002 - read from the config
        default_steps: int | None = None,  # noqa: ARG002 - read from the config
        force_zeros_for_empty_prompt: bool | None = None,  # noqa: ARG002 - read from the config
    ) -> None:
        super().__init__()
        if has_masked_input or has_independent_timesteps or low_res_channels or branch != "full":
            raise ShapeError("got Direct Extend with a way to condition, another kind of branch or an upscaling base; use JointUNet")
        whole = whole_config(unet_config)
        self.register_to_config(unet_config=whole)
        channels = {name: len(modalities) * whole[name] for name in ("in_channels", "out_channels")}
        self.unet = cast(UNet2DConditionModel, UNet2DConditionModel.from_config({**whole, **channels}))

    @classmethod
    def from_unet(
        cls, unet: UNet2DConditionModel, modalities: Sequence[str] = ("rgb", "depth"), output: OutputInit = "copy", seed: int = 0
    ) -> DirectExtend:
        """Extend a copy of a text-to-image U-Net: what the input layer gains begins at zero.

        Args:
            output: how what the output layer gains begins; "random": as PyTorch draws a new layer, from ``seed``.
        Raises: UnknownNameError.
        """
        if output not in OUTPUT_INITS:
            raise UnknownNameError(f"got output layer {output!r}; expected one of {', '.join(OUTPUT_INITS)}")
        with torch.device("meta"):
            extended = cls(unet_config=unet.config, modalities=tuple(modalities))
        body = copy.deepcopy(unet).requires_grad_(True)
        more = len(modalities) - 1
        body.conv_in = wider(unet.conv_in, nn.init.zeros_, in_groups=more)
        if output == "copy":
            body.conv_out = _repeated(unet.conv_out, more)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                body.conv_out = wider(unet.conv_out, nn.init.zeros_ if output == "zeros" else None, out_groups=more)
        body.register_to_config(in_channels=(1 + more) * unet.config.in_channels, out_channels=(1 + more) * unet.config.out_channels)
        extended.unet = body
        return extended.train(unet.training)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.config.modalities)

    @property
    def in_channels(self) -> int:
        """C of the state."""
        return self.config.unet_config["in_channels"]

    @property
    def takes_known(self) -> bool:
        """False: nothing can be shown to it."""
        return False

    @property
    def reads_sizes(self) -> bool:
        """As ``JointUNet.reads_sizes``."""
        return self.config.unet_config.get("addition_embed_type") == "text_time"

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        """As ``JointUNet.parts``."""
        return (self.unet,)

    def branch(self, modality: str) -> UNet2DConditionModel:  # noqa: ARG002 - all are one
        """The one U-Net of all modalities."""
        return self.unet

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        *,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
        **others: Any,
    ) -> JointUNetOutput | tuple[Tensor]:
        """Predict every modality's noise. Shapes as ``JointUNet.forward``; a sample's modalities share their timestep.

        Raises: ShapeError if M is not the number of modalities, or something is known.
        """
        if sample.ndim != 5 or sample.shape[1] != len(self.modalities) or any(value is not None for value in others.values()):
            given = ", ".join(name for name, value in others.items() if value is not None)
            raise ShapeError(
                f"got a sample {tuple(sample.shape)}{' and ' * bool(given)}{given}; expected (B, {len(self.modalities)}, C, H, W) alone"
            )
        t = per_modality(timestep, sample)[:, 0]
        predicted = self.unet(
            sample.flatten(1, 2),
            t,
            encoder_hidden_states,
            added_cond_kwargs=added_cond_kwargs,
            cross_attention_kwargs=cross_attention_kwargs,
        ).sample.unflatten(1, (len(self.modalities), -1))
        return JointUNetOutput(sample=predicted) if return_dict else (predicted,)


def wider(conv: nn.Conv2d, init: Any, in_groups: int = 0, out_groups: int = 0) -> nn.Conv2d:
    """Return a convolution with more channels at one end, the first ones as they were; ``init`` None: the others as PyTorch begins."""
    inputs, outputs = conv.in_channels * (1 + in_groups), conv.out_channels * (1 + out_groups)
    wide = nn.Conv2d(inputs, outputs, conv.kernel_size, padding=conv.padding, dtype=conv.weight.dtype).to(conv.weight.device)  # type: ignore[arg-type] - the same kinds
    with torch.no_grad():
        if init is not None:
            init(wide.weight)
            init(wide.bias)
        wide.weight[: conv.out_channels, : conv.in_channels] = conv.weight
        cast(Tensor, wide.bias)[: conv.out_channels] = cast(Tensor, conv.bias)
    return wide


def _repeated(conv: nn.Conv2d, more: int) -> nn.Conv2d:
    """The output layer, once for each modality."""
    wide = wider(conv, None, out_groups=more)
    with torch.no_grad():
        wide.weight.copy_(conv.weight.repeat(1 + more, 1, 1, 1))
        cast(Tensor, wide.bias).copy_(cast(Tensor, conv.bias).repeat(1 + more))
    return wide
