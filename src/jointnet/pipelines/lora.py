"""Adapters (LoRA) made for the base: on the RGB branch, where they belong, or on dense branches too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from diffusers.loaders import StableDiffusionXLLoraLoaderMixin

from jointnet.errors import UnknownNameError, UnsupportedBaseError
from jointnet.models.adapters import adapter_names
from jointnet.models.branch_kinds import BranchKind
from jointnet.models.joint_unet import JointUNet

OF_A_BRANCH = "_unet"
"""Ends the name that adapters know a dense branch by."""


class BranchLoraLoader(StableDiffusionXLLoraLoaderMixin):
    """diffusers' methods for adapters, which also reach a pipeline's dense branches where they are asked to."""

    joint_unet: JointUNet

    @property
    def _lora_loadable_modules(self) -> list[str]:  # pyright: ignore[reportIncompatibleVariableOverride] - read from the instance only
        """What diffusers' methods for adapters go through: the dense branches too, as "depth_unet"."""
        dense = () if self.joint_unet is None else self.joint_unet.modalities[1:]
        return ["unet", "text_encoder", "text_encoder_2", *(name + OF_A_BRANCH for name in dense)]

    def load_lora_weights(  # pyright: ignore[reportIncompatibleMethodOverride] - one more keyword
        self, pretrained_model_name_or_path_or_dict: Any, adapter_name: str | None = None, *, branch: str = "rgb", **kwargs: Any
    ) -> None:
        """As diffusers' method of the name, which changes the RGB branch and the text encoders.

        Args:
            branch: "all" changes every branch, as a LoRA for few steps (LCM, TCD) needs it; a modality's name that one alone.
        Raises: UnknownNameError for another name; UnsupportedBaseError for branches that are none of the base's copies.
        """
        if branch not in ("all", *self.joint_unet.modalities):
            raise UnknownNameError(f"got branch {branch!r}; expected all, or one of {', '.join(self.joint_unet.modalities)}")
        chosen = self.joint_unet.modalities if branch == "all" else (branch,)
        kind = BranchKind.parse(self.joint_unet.config.branch)
        if not kind.is_full and chosen != ("rgb",):
            raise UnsupportedBaseError(
                f"got a LoRA of the base for branches of the kind {self.joint_unet.config.branch}, which it does not fit; leave branch out"
            )
        if chosen == ("rgb",):
            super().load_lora_weights(_copied(pretrained_model_name_or_path_or_dict), adapter_name, **kwargs)
            return
        name = adapter_name or self._free_name()
        try:
            for modality in chosen:
                self._load_into(modality, _copied(pretrained_model_name_or_path_or_dict), name, kwargs)
        except Exception:
            for modality in chosen if adapter_name is None else ():
                if name in adapter_names(unet := self.joint_unet.branch(modality)):
                    unet.delete_adapters(name)
            raise

    def fuse_lora(self, components: Sequence[str] | None = None, *arguments: Any, **kwargs: Any) -> None:
        """As diffusers' method of the name; by default in all that has an adapter, dense branches included.

        Raises: UnsupportedBaseError for RGB layers that other branches run too.
        """
        chosen = list(self._lora_loadable_modules if components is None else components)
        if "unet" in chosen and BranchKind.parse(self.joint_unet.config.branch).rank:
            raise UnsupportedBaseError(
                f"got an adapter to be fused into layers that {self.joint_unet.config.branch} branches run too; leave it loaded"
            )
        super().fuse_lora(chosen, *arguments, **kwargs)

    def unfuse_lora(self, components: Sequence[str] | None = None, **kwargs: Any) -> None:
        """As diffusers' method of the name; by default in all that ``fuse_lora`` fuses."""
        super().unfuse_lora(list(self._lora_loadable_modules if components is None else components), **kwargs)

    def _load_into(self, modality: str, source: Any, name: str, options: dict[str, Any]) -> None:
        if modality == "rgb":
            super().load_lora_weights(source, name, **options)
            return
        of_loading = {key: value for key, value in options.items() if key in ("low_cpu_mem_usage", "hotswap")}
        of_reading = {key: value for key, value in options.items() if key not in of_loading}
        read: Any = self.lora_state_dict(source, unet_config=self.unet.config, **{**of_reading, "return_lora_metadata": True})
        state, alphas, metadata = read
        unet = self.joint_unet.branch(modality)
        self.load_lora_into_unet(state, alphas, unet, adapter_name=name, metadata=metadata, _pipeline=self, **of_loading)

    def _free_name(self) -> str:
        """The first of diffusers' names for adapters that no part has."""
        taken = {name for names in self.get_list_adapters().values() for name in names}
        return next(name for number in count() if (name := f"default_{number}") not in taken)


def _copied(source: Any) -> Any:
    """Weights in a dict are taken out of it while they are read."""
    return dict(source) if isinstance(source, dict) else source
