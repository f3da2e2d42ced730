"""A diffusers U-Net as a branch: run in two halves, so that features can be exchanged between them."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, cast

import torch
from diffusers import Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from jointnet.errors import UnsupportedBaseError
from jointnet.models.branch import Channels, DecoderPart, Features


class UNetBranch(nn.Module):
    """One modality's U-Net as a ``Branch``. ``encode`` and ``decode`` together equal ``unet.forward`` bit for bit.

    ``Features.skips`` are conv_in's output and every resnet's and downsampler's; ``private`` are the time embedding with all that is
    added to it (B, E), and the text as the attention layers take it (B, L, D).

    Both halves also go through the U-Net's own ``__call__``, so that its hooks run and ``unet.compile()`` acts, twice a prediction: the
    first half with the arguments of ``unet.forward``, returning Features; the second with ``features`` only, returning the prediction.
    Raises: UnsupportedBaseError.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        check_base(unet)
        self.unet = unet
        self._is_called = call_halves(unet)

    @property
    def channels(self) -> Channels:
        skips = tuple(skip_channels(self.unet))
        state = self.unet.config.in_channels - low_res_channels(self.unet)
        return Channels(state=state, input=skips[0], skips=skips, mid=skips[-1])

    def encode(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, received_input: Tensor | int, **kwargs: Any
    ) -> Features:
        """Run the first half; arguments as ``Branch.encode``."""
        return self("encode", sample, timestep, encoder_hidden_states, received_input=received_input, **kwargs)

    def decode(
        self, features: Features, cross_attention_kwargs: dict[str, Any] | None = None, *, part: DecoderPart = "whole", layers: int = 0
    ) -> Tensor:
        """Run the second half, or a part of it."""
        return self("decode", features, cross_attention_kwargs, part=part, layers=layers)

    @property
    def most_layers(self) -> int:
        """See ``Branch``: those of the outermost block."""
        return len(cast(nn.ModuleList, self.unet.up_blocks[-1].resnets))

    def forward(self, half: Literal["encode", "decode"], *args: Any, **kwargs: Any) -> Any:
        """Run one half. Both go through here, because hooks (offloading, casting, FSDP2's gathering of weights) hang on ``forward``."""
        if half == "encode":
            return self.unet(*args, **kwargs) if self._is_called else encode(self.unet, *args, **kwargs)
        features, attention = args
        if self._is_called:
            return self.unet(features=features, cross_attention_kwargs=attention, **kwargs)
        return decode(self.unet, features, attention, **kwargs)


def call_halves(unet: UNet2DConditionModel) -> bool:
    """Let a U-Net's ``forward`` run a half where it is called as UNetBranch does; else it stays what it is.

    Returns False, and changes nothing, for a U-Net whose ``forward`` was replaced already: by hooks of offloading.
    """
    if "forward" not in unet.__dict__:
        unet.forward = partial(_whole_or_half, unet)  # no method: unlike one it can be pickled
    return isinstance(unet.forward, partial) and unet.forward.func is _whole_or_half


def _whole_or_half(
    unet: UNet2DConditionModel, *args: Any, received_input: Tensor | int | None = None, features: Features | None = None, **kwargs: Any
) -> Any:
    if features is not None:
        return decode(unet, features, **kwargs)
    if received_input is not None:
        return encode(unet, *args, received_input=received_input, **kwargs)
    return type(unet).forward(unet, *args, **kwargs)  # a pipeline of the base has the same U-Net


def encode(
    unet: UNet2DConditionModel,
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
    """Run the first half, or what gives its first skips; arguments as ``Branch.encode``."""
    if unet.config.center_input_sample:
        sample = 2 * sample - 1
    embedding = _embed(unet, sample, timestep, encoder_hidden_states, class_labels, added_cond_kwargs or {})
    context = unet.process_encoder_hidden_states(encoder_hidden_states, added_cond_kwargs or {})

    h = unet.conv_in(sample) + received_input  # (B, C0, H, W)
    skips = [h]
    if layers is not None:
        block = unet.down_blocks[0]
        for index in range(layers - 1):
            h = _layer(block, index, h, embedding, context, cross_attention_kwargs)
            skips.append(h)
        return Features(skips, h, (embedding, context))
    for block in unet.down_blocks:
        h, block_skips = block(h, embedding, **_attention_inputs(block, context, cross_attention_kwargs))
        skips.extend(block_skips)
    if unet.mid_block is not None:
        h = unet.mid_block(h, embedding, **_attention_inputs(unet.mid_block, context, cross_attention_kwargs))
    return Features(skips, h, (embedding, context))


def _embed(
    unet: UNet2DConditionModel,
    sample: Tensor,
    timestep: Tensor,
    encoder_hidden_states: Tensor,
    class_labels: Tensor | None,
    added_cond_kwargs: dict[str, Tensor],
) -> Tensor:
    embedding = unet.time_embedding(unet.get_time_embed(sample, timestep))
    if (labels := unet.get_class_embed(sample, class_labels)) is not None:
        embedding = embedding + labels
    added = unet.get_aug_embed(embedding, encoder_hidden_states, added_cond_kwargs)
    if added is not None:
        embedding = embedding + added
    return embedding if unet.time_embed_act is None else unet.time_embed_act(embedding)


def decode(
    unet: UNet2DConditionModel,
    features: Features,
    cross_attention_kwargs: dict[str, Any] | None = None,
    *,
    part: DecoderPart = "whole",
    layers: int = 0,
) -> Tensor:
    """Run the second half, or a part of it; arguments as ``Branch.decode``."""
    skips, h = list(features.skips), features.mid
    embedding, context = features.private
    if part != "shallow":
        h, skips = _up(unet, h, skips, features.private, cross_attention_kwargs, layers)
    if part == "deep":
        return h
    if layers:
        block = unet.up_blocks[-1]
        count = len(cast(nn.ModuleList, block.resnets))
        for index in range(count - layers, count):
            h = _layer(block, index, torch.cat([h, skips.pop()], 1), embedding, context, cross_attention_kwargs)
    if unet.conv_norm_out:
        h = cast(nn.Module, unet.conv_act)(unet.conv_norm_out(h))
    return unet.conv_out(h)


def _up(
    unet: UNet2DConditionModel,
    h: Tensor,
    skips: list[Tensor],
    private: tuple[Tensor, ...],
    cross_attention_kwargs: dict[str, Any] | None,
    layers: int,
) -> tuple[Tensor, list[Tensor]]:
    """Run all upward layers but the last ``layers``. Returns the hidden state after them, and the skips that are left."""
    embedding, context = private
    divisor = 2**unet.num_upsamplers
    is_odd = any(side % divisor for side in skips[0].shape[-2:])
    for index, block in enumerate(unet.up_blocks):
        count = len(cast(nn.ModuleList, block.resnets))
        is_last = index == len(unet.up_blocks) - 1
        if is_last and layers:
            for number in range(count - layers):
                h = _layer(block, number, torch.cat([h, skips.pop()], 1), embedding, context, cross_attention_kwargs)
            break
        block_skips, skips = skips[-count:], skips[:-count]
        h = block(
            hidden_states=h,
            temb=embedding,
            res_hidden_states_tuple=tuple(block_skips),
            upsample_size=skips[-1].shape[2:] if is_odd and not is_last else None,
            **_attention_inputs(block, context, cross_attention_kwargs),
        )
    return h, skips


def _layer(
    block: nn.Module, index: int, h: Tensor, embedding: Tensor, context: Tensor, cross_attention_kwargs: dict[str, Any] | None
) -> Tensor:
    """Run one residual block and, if there is one, the attention after it."""
    h = cast(nn.ModuleList, block.resnets)[index](h, embedding)
    attentions = cast(nn.ModuleList | None, getattr(block, "attentions", None))
    if not attentions:
        return h
    attention, inputs = attentions[index], _attention_inputs(block, context, cross_attention_kwargs)
    return attention(h, **inputs, return_dict=False)[0] if isinstance(attention, Transformer2DModel) else attention(h, **inputs)


def _attention_inputs(block: nn.Module, context: Tensor, cross_attention_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    if not getattr(block, "has_cross_attention", False):
        return {}
    return {"encoder_hidden_states": context, "cross_attention_kwargs": cross_attention_kwargs}


def skip_channels(unet: UNet2DConditionModel) -> list[int]:
    """Channels of every skip, conv_in's output first, in the order of the encoder half."""
    channels: list[Any] = [unet.conv_in.out_channels]
    for block in unet.down_blocks:
        channels += [resnet.out_channels for resnet in cast(nn.ModuleList, block.resnets)]
        channels += [layer.out_channels for layer in cast(nn.ModuleList | None, block.downsamplers) or ()]
    return channels


def low_res_channels(unet: UNet2DConditionModel) -> int:
    """Input channels that hold a smaller map, enlarged and noised: half of them in DeepFloyd-IF stage II, none in other bases."""
    config = unet.config
    upscales = config.class_embed_type == "timestep" and config.in_channels == config.out_channels
    return config.in_channels // 2 if upscales else 0


def check_base(unet: UNet2DConditionModel) -> None:
    """Refuse, by name, parts that the two halves do not carry over.

    Raises: UnsupportedBaseError.
    """
    config = unet.config
    channels = config.in_channels - low_res_channels(unet)
    found = {
        f"addition_embed_type {config.addition_embed_type!r}": config.addition_embed_type not in (None, "text", "text_time"),
        f"encoder_hid_dim_type {config.encoder_hid_dim_type!r}": config.encoder_hid_dim_type not in (None, "text_proj"),
        f"attention_type {config.attention_type!r} (GLIGEN)": config.attention_type != "default",
        f"in_channels {config.in_channels} for out_channels {config.out_channels} (inpainting, depth-to-image, image-conditioned)": (
            config.out_channels not in (channels, 2 * channels)
        ),
        f"class_embed_type {config.class_embed_type!r}": config.class_embed_type is not None and not low_res_channels(unet),
        f"num_class_embeds {config.num_class_embeds}": config.num_class_embeds is not None,
        "class_embeddings_concat": config.class_embeddings_concat,
        "time_cond_proj_dim (distilled guidance)": config.time_cond_proj_dim is not None,
    }
    refused = [name for name, is_there in found.items() if is_there]
    if refused:
        raise UnsupportedBaseError(
            f"got a U-Net with {', '.join(refused)}; expected a text-to-image U-Net (SD 1/2, SDXL, DeepFloyd-IF): use its plain version"
        )
