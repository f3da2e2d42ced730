"""JointNet: joint diffusion of images and their geometry on diffusers.

Nothing heavy is imported until one of the public names is used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jointnet.errors import JointNetError
    from jointnet.loading import load
    from jointnet.modalities import Modality, get_modality, registered_modalities
    from jointnet.modalities import register as register_modality
    from jointnet.models.joint_unet import JointUNet
    from jointnet.pipelines.joint_net import JointNetPipeline
    from jointnet.tasks.output import JointNetPipelineOutput

__version__ = version("jointnet")

_PUBLIC = {
    "JointNetError": ("jointnet.errors", "JointNetError"),
    "JointNetPipeline": ("jointnet.pipelines.joint_net", "JointNetPipeline"),
    "JointNetPipelineOutput": ("jointnet.tasks.output", "JointNetPipelineOutput"),
    "JointUNet": ("jointnet.models.joint_unet", "JointUNet"),
    "Modality": ("jointnet.modalities", "Modality"),
    "get_modality": ("jointnet.modalities", "get_modality"),
    "load": ("jointnet.loading", "load"),
    "register_modality": ("jointnet.modalities", "register"),
    "registered_modalities": ("jointnet.modalities", "registered_modalities"),
}

__all__ = [
    "JointNetError",
    "JointNetPipeline",
    "JointNetPipelineOutput",
    "JointUNet",
    "Modality",
    "get_modality",
    "load",
    "register_modality",
    "registered_modalities",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jointnet' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
