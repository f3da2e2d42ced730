"""The joint network: one U-Net a modality, every ordered pair of them joined by zero convolutions (Sec. 3.1, Fig. 2c)."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, Literal, cast

import torch
from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.peft_utils import apply_lora_scale
from torch import Tensor, nn
from torch.utils._pytree import register_dataclass

from jointnet.errors import ModelFolderError, ShapeError, UnknownNameError, UnsupportedBaseError
from jointnet.models.adapters import adapter_names, without_adapters
from jointnet.models.attention import dispatch_attention, withdraw_attention
from jointnet.models.branch import Branch, Channels, Features
from jointnet.models.branch_kinds import BranchKind
from jointnet.models.light import dense_unet
from jointnet.models.shortcuts import predict_with
from jointnet.models.unet_branch import UNetBranch, low_res_channels
from jointnet.types import Known, LowRes, Sent, Shortcut

for _input in (Known, LowRes):  # so that torch.export sees the tensors in them
    register_dataclass(_input, field_names=[f.name for f in fields(_input)], serialized_type_name=f"jointnet.{_input.__name__}")


def zero_conv(in_channels: int, out_channels: int, kernel_size: int = 1) -> nn.Conv2d:
    """Build a convolution that keeps the size and returns zeros until it is trained (Sec. 3.1)."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)  # pyright: ignore[reportArgumentType] - a bias is always there
    return conv


_CPU = torch.device("cpu")

EXCHANGED = ("input", "skips", "mid")
"""What a branch sends to another: its noisy map, its skips, its mid block's output."""


class Exchange(nn.Module):
    """All that one branch sends to one other: its noisy map, its skips and its mid block's output, each through a zero convolution.

    Args:
        sender, receiver: the branches' channels; their skips have the same sizes, one for one.
        input_kernel: kernel size of the receiver's first layer.
        parts: which of EXCHANGED are sent; less than all are for studies of what each does.
    Raises: ShapeError if the branches have different numbers of skips.
    Source: Sec. 3.1, Fig. 2(c).
    """

    def __init__(self, sender: Channels, receiver: Channels, input_kernel: int, parts: Sequence[str] = EXCHANGED) -> None:
        super().__init__()
        if len(sender.skips) != len(receiver.skips):
            raise ShapeError(f"got branches with {len(sender.skips)} and {len(receiver.skips)} skips; expected as many in both")
        skips = [zero_conv(sent, taken) for sent, taken in zip(sender.skips, receiver.skips, strict=True)]
        self.input = zero_conv(sender.state, receiver.input, input_kernel) if "input" in parts else None
        self.skips = nn.ModuleList(skips) if "skips" in parts else None
        self.mid = zero_conv(sender.mid, receiver.mid) if "mid" in parts else None

    def send_input(self, noisy_map: Tensor) -> Tensor | int:
        """Return what the receiver adds to its first layer's output, 0 for nothing. Shapes: (B, C, H, W) -> (B, receiver.input, H, W)."""
        return self("input", noisy_map)

    def send_features(self, skips: Sequence[Tensor], mid: Tensor | None) -> tuple[Sequence[Tensor | int], Tensor | int]:
        """Return what the receiver adds to its own skips and mid output; heights and widths are kept. 0: nothing is sent.

        Skips may be the first ones only, and ``mid`` None.
        """
        return self("features", skips, mid)

    def forward(self, part: Literal["input", "features"], *sent: Any) -> Any:
        """Run one part. Both go through here, as a branch's halves do: hooks hang on ``forward``."""
        if part == "input":
            return 0 if self.input is None else self.input(*sent)
        skips, mid = sent
        sent_skips = [0] * len(skips) if self.skips is None else [conv(s) for conv, s in zip(self.skips[: len(skips)], skips, strict=True)]
        return sent_skips, 0 if self.mid is None or mid is None else self.mid(mid)


@dataclass
class JointUNetOutput(BaseOutput):
    """``sample`` (B, M, C_out, H, W): each modality's prediction."""

    sample: Tensor


class JointUNet(ModelMixin, ConfigMixin):
    """M branches and an exchange for every ordered pair; with two modalities, exactly the paper's network.

    Args:
        unet_config: config of the base's ``UNet2DConditionModel``, or the part of it that differs from the defaults; every branch is built
            from it.
        modalities: names, "rgb" first.
        has_masked_input: the network also reads which pixels are known, and their latents (Sec. 4.1).
        has_independent_timesteps: it was trained with each modality at a noise level of its own; at timestep 0 one is clean.
        low_res_channels: of the smaller map that a branch of an upscaling base reads beside its state; 0 for other bases.
        routes: which branch sends to which, as "rgb_to_depth"; None: each to every other. Less is for studies.
        exchanged: what is sent, some of EXCHANGED.
        branch: what the dense branches are: "full" as the RGB branch, "lora:RANK" its weights with changes of low rank, "thin:SHARE" a
            thinner network.
        depth_near_m, default_guidance, default_steps, force_zeros_for_empty_prompt: as the pipeline's arguments of these names, so that
            a pipeline put together from the components means the same; None: not stated.
    Raises: UnknownNameError if the first modality is not "rgb" or a name comes twice, or a route or part has no such name.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = UNet2DConditionModel._no_split_modules
    _skip_layerwise_casting_patterns = UNet2DConditionModel._skip_layerwise_casting_patterns
    _repeated_blocks = UNet2DConditionModel._repeated_blocks

    @property
    def _group_offload_block_modules(self) -> list[str]:
        """The modules that diffusers' block-level offloading enters: every branch is one group, all between them another."""
        return ["branches", *self.modalities]

    @wraps(ModelMixin.enable_group_offload, assigned=())
    def enable_group_offload(  # pyright: ignore[reportIncompatibleMethodOverride] - the same, by its signature
        self, onload_device: torch.device, offload_device: torch.device = _CPU, offload_type: str = "block_level", **kwargs: Any
    ) -> None:
        """As ModelMixin's. Raises: UnsupportedBaseError by blocks for branches that run another's layers, which may lie elsewhere then."""
        if offload_type == "block_level" and BranchKind.parse(self.config.branch).rank:
            raise UnsupportedBaseError(
                f"got branches {self.config.branch} to be offloaded by blocks; they run RGB's layers: use offload_type='leaf_level'"
            )
        super().enable_group_offload(onload_device, offload_device, offload_type, **kwargs)

    @register_to_config
    def __init__(
        self,
        unet_config: dict[str, Any],
        modalities: Sequence[str] = ("rgb", "depth"),
        has_masked_input: bool = False,  # noqa: ARG002 - read from the config
        has_independent_timesteps: bool = False,  # noqa: ARG002 - read from the config
        low_res_channels: int = 0,  # noqa: ARG002 - read from the config
        routes: Sequence[str] | None = None,  # noqa: ARG002 - read from the config
        exchanged: Sequence[str] = EXCHANGED,  # noqa: ARG002 - read from the config
        branch: str = "full",
        depth_near_m: float | None = None,  # noqa: ARG002 - read from the config
        default_guidance: float | None = None,  # noqa: ARG002 - read from the config
        default_steps: int | None = None,  # noqa: ARG002 - read from the config
        force_zeros_for_empty_prompt: bool | None = None,  # noqa: ARG002 - read from the config
    ) -> None:
        super().__init__()
        whole = whole_config(unet_config)
        self.register_to_config(unet_config=whole)
        kind, unets = BranchKind.parse(branch), [cast(UNet2DConditionModel, UNet2DConditionModel.from_config(whole))]
        for _ in modalities[1:]:
            new = UNet2DConditionModel.from_config(whole) if kind.is_full else dense_unet(kind, unets[0])
            unets.append(cast(UNet2DConditionModel, new))
        self._assemble(unets)

    def _assemble(self, unets: Sequence[UNet2DConditionModel]) -> None:
        names = list(self.config.modalities)
        if not names or names[0] != "rgb" or len(set(names)) < len(names):
            raise UnknownNameError(f"got modalities {names}; expected different names, 'rgb' first")
        self.branches = nn.ModuleDict({name: UNetBranch(unet) for name, unet in zip(names, unets, strict=True)})
        channels = {name: self.branch_of(name).channels for name in names}
        kernels = {name: unet.config.conv_in_kernel for name, unet in zip(names, unets, strict=True)}
        pairs = {_route(sender, receiver): (sender, receiver) for sender in names for receiver in names if sender != receiver}
        routes, parts = self.config.routes, self.config.exchanged
        for name in [*(name for name in routes or () if name not in pairs), *(part for part in parts if part not in EXCHANGED)]:
            raise UnknownNameError(
                f"got {name!r}; expected routes of {', '.join(pairs) or 'two maps'}, and parts of {', '.join(EXCHANGED)}"
            )
        self.exchanges = nn.ModuleDict(
            {
                route: Exchange(channels[sender], channels[receiver], kernels[receiver], parts)
                for route, (sender, receiver) in pairs.items()
                if routes is None or route in routes
            }
        )
        self.masked_inputs = nn.ModuleDict()
        if self.config.has_masked_input:
            self._assemble_masked_inputs()

    def _assemble_masked_inputs(self) -> None:
        """One zero convolution a modality: own mask, own masked latents, then the others' in modality order."""
        num_read = len(self.modalities) * (1 + self.in_channels)
        for name in self.modalities:
            kernel = self.branch(name).config.conv_in_kernel
            self.masked_inputs[name] = zero_conv(num_read, self.branch_of(name).channels.input, kernel)

    def add_masked_input(self) -> JointUNet:
        """Add the input of masks and known latents, in place; until it is trained, predictions stay the same (Sec. 4.1)."""
        if not self.config.has_masked_input:
            self.register_to_config(has_masked_input=True)
            self._assemble_masked_inputs()
            self.masked_inputs.to(dtype=self.dtype, device=self.device)
        return self

    @classmethod
    def from_unet(
        cls,
        unet: UNet2DConditionModel,
        modalities: Sequence[str] = ("rgb", "depth"),
        routes: Sequence[str] | None = None,
        exchanged: Sequence[str] = EXCHANGED,
        branch: str = "full",
    ) -> JointUNet:
        """Extend a text-to-image U-Net: the RGB branch *is* ``unet``, each dense branch a copy of it, the exchanges are zero.

        Adapters (LoRA) stay on the RGB branch; the copies are of the weights without them. ``routes`` and ``exchanged`` as for the class;
        ``branch`` too: a "lora" one begins as a copy does, a "thin" one has to be trained from nearly nothing, best by a full one.
        Raises: UnsupportedBaseError, UnknownNameError.
        """
        unet = getattr(unet, "_orig_mod", unet)  # of torch.compile
        with torch.device("meta"):
            joint = cls(
                unet_config=unet.config,
                modalities=tuple(modalities),
                low_res_channels=low_res_channels(unet),
                routes=routes if routes is None else tuple(routes),
                exchanged=tuple(exchanged),
                branch=branch,
            )
        with without_adapters(unet):
            copies = [dense_unet(BranchKind.parse(branch), unet) for _ in modalities[1:]]
        if adapter_names(unet):  # peft has frozen all else
            copies = [unfrozen.requires_grad_(True) for unfrozen in copies]
        joint._assemble([unet, *copies])
        joint.exchanges.to(dtype=unet.dtype, device=unet.device)
        return joint.train(unet.training)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.config.modalities)

    @property
    def in_channels(self) -> int:
        """C of the state."""
        return self.config.unet_config["in_channels"] - self.config.low_res_channels

    @property
    def takes_known(self) -> bool:
        """True if it was trained with a known part: by masks, or by clean modalities."""
        return self.config.has_masked_input or self.config.has_independent_timesteps

    @property
    def reads_sizes(self) -> bool:
        """True if the base reads the picture's size and crop (SDXL's ``time_ids``)."""
        return self.config.unet_config.get("addition_embed_type") == "text_time"

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        """Branches and exchanges: what is sharded on its own."""
        return (*self.branches.values(), *self.exchanges.values())

    def branch(self, modality: str) -> UNet2DConditionModel:
        """The U-Net of a modality."""
        return cast(UNetBranch, self.branches[modality]).unet

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, **kwargs: Any) -> Any:
        """As ModelMixin does. Raises: ModelFolderError if a weight is missing, which diffusers leaves empty."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        network = loaded[0] if isinstance(loaded, tuple) else loaded
        empty = [] if hasattr(network, "_hf_hook") else [name for name, value in network.named_parameters() if value.is_meta]
        if empty:
            more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
            raise ModelFolderError(f"got no weight {empty[0]}{more} in {str(pretrained_model_name_or_path)!r}; save or fetch it again")
        return loaded

    @wraps(ModelMixin.save_pretrained, assigned=())  # pipelines look at the arguments that it takes
    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride] - the same, by its signature
        self, save_directory: str | os.PathLike, *arguments: Any, **kwargs: Any
    ) -> None:
        """As ModelMixin does; adapters (LoRA) are left out, or the folder could not be opened. Fused ones are part of the weights."""
        with without_adapters(self):
            super().save_pretrained(save_directory, *arguments, **kwargs)

    def fuse_qkv_projections(self) -> None:
        """Compute queries, keys and values at once, in every branch; as UNet2DConditionModel's method of the name.

        Raises: UnsupportedBaseError for branches that run another's layers.
        """
        if BranchKind.parse(self.config.branch).rank:
            raise UnsupportedBaseError(f"got branches {self.config.branch}, whose layers are the RGB branch's too; they cannot be fused")
        for name in self.modalities:
            self.branch(name).fuse_qkv_projections()

    def unfuse_qkv_projections(self) -> None:
        """Undo ``fuse_qkv_projections``."""
        for name in self.modalities:
            self.branch(name).unfuse_qkv_projections()

    def set_attention_slice(self, slice_size: str | int | list[int] = "auto") -> None:
        """Compute attention in slices, in every branch; as UNet2DConditionModel's method of the name."""
        for name in self.modalities:
            self.branch(name).set_attention_slice(slice_size)

    def set_attention_backend(self, backend: str) -> None:
        """Choose what computes attention, in every branch; as ModelMixin's method of the name, which does nothing for diffusers' U-Nets.

        Raises: UnsupportedBaseError for attention that no backend can be chosen for; ValueError for an unknown name.
        """
        was_chosen = dispatch_attention(self)
        try:
            super().set_attention_backend(backend)
        except Exception:
            if not was_chosen:
                withdraw_attention(self)
            raise

    def reset_attention_backend(self) -> None:
        """Undo ``set_attention_backend``; diffusers' method of the name would go on with the backend that was chosen last."""
        withdraw_attention(self)

    def enable_cache(self, config: object) -> None:
        """Refused: diffusers' caches know transformers' blocks. Raises: UnsupportedBaseError."""
        raise UnsupportedBaseError(
            f"got a {type(config).__name__}; diffusers' caches do nothing, or the wrong thing, in U-Nets whose branches run in halves and "
            "windows: choose a speed instead, such as pipe(..., speed='fast')"
        )

    @property
    def attn_processors(self) -> dict[str, Any]:
        """Attention processors of every branch, by their place in the network."""
        return {
            _place(name, place): processor for name in self.modalities for place, processor in self.branch(name).attn_processors.items()
        }

    def set_attn_processor(self, processor: Any) -> None:
        """Set the attention processors of every branch: one for all, or a dict as ``attn_processors`` has it, or as one U-Net has it."""
        for name in self.modalities:
            unet = self.branch(name)
            if isinstance(processor, Mapping):
                chosen = {place: processor.get(_place(name, place), processor.get(place)) for place in unet.attn_processors}
                missing = [place for place, one in chosen.items() if one is None]
                if missing:
                    raise UnknownNameError(f"got no attention processor for {_place(name, missing[0])}; expected one for every layer")
                unet.set_attn_processor(chosen)
            else:
                unet.set_attn_processor(processor)

    @apply_lora_scale("cross_attention_kwargs")
    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        *,
        known: Known | None = None,
        low_res: LowRes | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        shortcut: Shortcut | None = None,
        return_dict: bool = True,
    ) -> JointUNetOutput | tuple[Tensor]:
        """Predict every modality's noise (or whatever the base predicts) from all of them.

        Shapes: sample (B, M, C, H, W); timestep a number, (B,) or (B, M); encoder_hidden_states (B, L, D), shared by the branches.
        ``known`` is read by networks with masked input; None: every pixel is asked. ``low_res`` belongs to upscaling bases and to no other.
        With a ``shortcut`` less is computed, see ``models.shortcuts``.
        Raises: ShapeError if M is not the number of branches, or ``low_res`` is missing, or passed to another base.
        Source: Sec. 3.1; the arguments of Eq. 1's eps_theta and eps_phi; Sec. 4.1 for ``known``.
        """
        names = self.modalities
        if sample.ndim != 5 or sample.shape[1] != len(names):
            raise ShapeError(
                f"got a sample of shape {tuple(sample.shape)}; expected (B, {len(names)}, C, H, W), one for each of {', '.join(names)}"
            )
        if (low_res is None) == bool(self.config.low_res_channels):
            raise ShapeError("an upscaling base needs low_res, and only an upscaling base takes it")
        t = per_modality(timestep, sample)  # (B, M)
        maps = dict(zip(names, sample.unbind(1), strict=True))  # each (B, C, H, W)

        if shortcut is not None:
            prediction = predict_with(
                self,
                shortcut,
                maps,
                t,
                encoder_hidden_states,
                known=known,
                low_res=low_res,
                added=added_cond_kwargs,
                cross_attention_kwargs=cross_attention_kwargs,
            )
            return JointUNetOutput(sample=prediction) if return_dict else (prediction,)
        features: dict[str, Features] = {}
        for index, name in enumerate(names):
            features[name] = self.branch_of(name).encode(
                maps[name] if low_res is None else torch.cat([maps[name], low_res.maps[:, index].to(sample)], 1),
                t[:, index],
                encoder_hidden_states,
                self.received_input(index, maps, known),
                class_labels=None if low_res is None else low_res.level,
                added_cond_kwargs=added_cond_kwargs,
                cross_attention_kwargs=cross_attention_kwargs,
            )
        predictions = [self.branch_of(name).decode(self._with_received(name, features), cross_attention_kwargs) for name in names]
        prediction = torch.stack(predictions, 1)  # (B, M, C_out, H, W)
        return JointUNetOutput(sample=prediction) if return_dict else (prediction,)

    def received_input(self, index: int, maps: dict[str, Tensor], known: Known | None) -> Tensor | int:
        """Sum of what is added to a branch's conv_in: the others' noisy maps and, if the network reads them, masks and known latents."""
        name = self.modalities[index]
        received = sum(self._exchange(other, name).send_input(noisy_map) for other, noisy_map in maps.items() if self.sends(other, name))
        if self.config.has_masked_input:
            received = received + self.masked_inputs[name](self._masks_as_read(index, maps[name], known))
        return received

    def _masks_as_read(self, own: int, like: Tensor, known: Known | None) -> Tensor:
        """(B, M * (1 + C), H, W): mask (1 where asked) and latents (0 where asked) of each modality, the own first."""
        order = [own, *(i for i in range(len(self.modalities)) if i != own)]
        if known is None:
            masks, latents = like.new_ones(len(like), 1, *like.shape[-2:]), torch.zeros_like(like)
            return torch.cat([masks, latents] * len(order), 1)
        asked = known.asked.to(like.device)
        latents = known.latents.to(like).masked_fill(asked, 0)  # (B, M, C, H, W)
        return torch.cat([asked.to(like), latents], 2)[:, order].flatten(1, 2)

    def _with_received(self, receiver: str, features: dict[str, Features]) -> Features:
        """The receiver's own skips and mid output plus all that the others send."""
        own = features[receiver]
        skips, mid = list(own.skips), own.mid
        for sender, theirs in features.items():
            if self.sends(sender, receiver):
                sent_skips, sent_mid = self.send_features(sender, receiver, theirs)
                skips = [a + b for a, b in zip(skips, sent_skips, strict=True)]
                mid = mid + sent_mid
        return own._replace(skips=skips, mid=mid)

    def branch_of(self, modality: str) -> Branch:
        """A modality's network in its two halves."""
        return cast(Branch, self.branches[modality])

    def sends(self, sender: str, receiver: str) -> bool:
        """True if a branch sends to another."""
        return _route(sender, receiver) in self.exchanges

    def send_features(self, sender: str, receiver: str, features: Features, *, has_mid: bool = True) -> Sent:
        """What a branch sends to another, of its first skips or all of them, and of its mid block. Raises: KeyError if it sends nothing."""
        return self._exchange(sender, receiver).send_features(features.skips, features.mid if has_mid else None)

    def _exchange(self, sender: str, receiver: str) -> Exchange:
        return cast(Exchange, self.exchanges[_route(sender, receiver)])


def per_modality(timestep: Tensor | float, sample: Tensor) -> Tensor:
    """A number, (B,) or (B, M) -> (B, M) on the sample's device."""
    t = torch.as_tensor(timestep, device=sample.device)
    if t.ndim == 1:
        t = t[:, None]
    return t.expand(sample.shape[0], sample.shape[1])


def whole_config(unet_config: Mapping[str, Any]) -> dict[str, Any]:
    """A U-Net's config with defaults for what it leaves out."""
    parameters = inspect.signature(UNet2DConditionModel.__init__).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    return {**defaults, **{name: value for name, value in unet_config.items() if not name.startswith("_")}}


def _place(modality: str, place: str) -> str:
    """Where a layer of a branch's U-Net lies in the network."""
    return f"branches.{modality}.unet.{place}"


def _route(sender: str, receiver: str) -> str:
    return f"{sender}_to_{receiver}"
