"""Adapters (LoRA) made for the base: on the RGB branch, where they belong, or on dense branches too."""

from __future__ import annotations

from typing import Any

from diffusers.loaders import StableDiffusionXLLoraLoaderMixin

from jointnet.errors import UnknownNameError, UnsupportedBaseError
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
        kind = self.joint_unet.config.branch
        if kind != "full" and chosen != ("rgb",):
            raise UnsupportedBaseError(f"got a LoRA of the base for branches of the kind {kind}, which it does not fit; leave branch out")
        if "rgb" in chosen:
            super().load_lora_weights(pretrained_model_name_or_path_or_dict, adapter_name, **kwargs)
        options = {name: kwargs.pop(name) for name in ("low_cpu_mem_usage", "hotswap") if name in kwargs}
        for name in chosen:
            if name != "rgb":
                read: Any = self.lora_state_dict(
                    pretrained_model_name_or_path_or_dict, unet_config=self.unet.config, **{**kwargs, "return_lora_metadata": True}
                )
                state, alphas, metadata = read
                self.load_lora_into_unet(
                    state, alphas, self.joint_unet.branch(name), adapter_name=adapter_name, metadata=metadata, _pipeline=self, **options
                )
