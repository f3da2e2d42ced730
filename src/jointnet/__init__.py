"""JointNet: joint diffusion of images and their geometry on diffusers.

Nothing heavy is imported until one of the public names is used. What is not listed here is not for users: it may change.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jointnet.data.labelers.labeler import Labeler
    from jointnet.data.labelers.registry import get_labeler
    from jointnet.errors import (
        ColourProfileWarning,
        DataFolderError,
        DepthHolesWarning,
        DepthUnitWarning,
        DivergenceError,
        EightBitWarning,
        InputFileError,
        JointNetError,
        JointNetWarning,
        MissingPackageError,
        ModelFolderError,
        NonFiniteError,
        OutputError,
        PromptTruncatedWarning,
        RangeError,
        RunFolderError,
        ShapeError,
        UnknownNameError,
        UnknownWordsWarning,
        UnsupportedBaseError,
    )
    from jointnet.geometry.depth import depth_from_disparity
    from jointnet.geometry.files import write_mesh
    from jointnet.geometry.mesh import Mesh, build_mesh
    from jointnet.geometry.projection import Projection, get_projection
    from jointnet.loading import load
    from jointnet.modalities import Modality, get_modality, registered_modalities
    from jointnet.modalities import register as register_modality
    from jointnet.modalities.depth_units import DepthMap, DepthUnit
    from jointnet.modalities.read import read_depth
    from jointnet.models.joint_unet import JointUNet
    from jointnet.models.openvino import leave_openvino, use_openvino
    from jointnet.pipelines.joint_net import JointNetPipeline
    from jointnet.sampling.speed import Speed
    from jointnet.sampling.tiling import Tiling
    from jointnet.tasks.condition import Condition
    from jointnet.tasks.conventions import PAPER, RELEASE, Conventions
    from jointnet.tasks.edit import Edit
    from jointnet.tasks.generate import Generate
    from jointnet.tasks.options import SamplingOptions
    from jointnet.tasks.output import JointNetPipelineOutput, Result
    from jointnet.tasks.panorama import Panorama
    from jointnet.tasks.predict import Predict
    from jointnet.tasks.refine import Refine
    from jointnet.training.objective import JointObjective

__version__ = version("jointnet")

_MODULES = {
    "jointnet.data.labelers.labeler": ["Labeler"],
    "jointnet.data.labelers.registry": ["get_labeler"],
    "jointnet.errors": [
        "ColourProfileWarning",
        "DataFolderError",
        "DepthHolesWarning",
        "DepthUnitWarning",
        "DivergenceError",
        "EightBitWarning",
        "InputFileError",
        "JointNetError",
        "JointNetWarning",
        "MissingPackageError",
        "ModelFolderError",
        "NonFiniteError",
        "OutputError",
        "PromptTruncatedWarning",
        "RangeError",
        "RunFolderError",
        "ShapeError",
        "UnknownNameError",
        "UnknownWordsWarning",
        "UnsupportedBaseError",
    ],
    "jointnet.geometry.depth": ["depth_from_disparity"],
    "jointnet.geometry.files": ["write_mesh"],
    "jointnet.geometry.mesh": ["Mesh", "build_mesh"],
    "jointnet.geometry.projection": ["Projection", "get_projection"],
    "jointnet.loading": ["load"],
    "jointnet.modalities": ["Modality", "get_modality", "register_modality", "registered_modalities"],
    "jointnet.modalities.depth_units": ["DepthMap", "DepthUnit"],
    "jointnet.modalities.read": ["read_depth"],
    "jointnet.models.joint_unet": ["JointUNet"],
    "jointnet.models.openvino": ["leave_openvino", "use_openvino"],
    "jointnet.pipelines.joint_net": ["JointNetPipeline"],
    "jointnet.sampling.speed": ["Speed"],
    "jointnet.sampling.tiling": ["Tiling"],
    "jointnet.tasks.condition": ["Condition"],
    "jointnet.tasks.conventions": ["Conventions", "PAPER", "RELEASE"],
    "jointnet.tasks.edit": ["Edit"],
    "jointnet.tasks.generate": ["Generate"],
    "jointnet.tasks.options": ["SamplingOptions"],
    "jointnet.tasks.output": ["JointNetPipelineOutput", "Result"],
    "jointnet.tasks.panorama": ["Panorama"],
    "jointnet.tasks.predict": ["Predict"],
    "jointnet.tasks.refine": ["Refine"],
    "jointnet.training.objective": ["JointObjective"],
}
"""Module -> the public names that are defined in it."""

_PUBLIC = {name: module for module, names in _MODULES.items() for name in names}
_INNER_NAMES = {"register_modality": "register"}
"""Public name -> what its module calls it, where that differs."""

__all__ = [
    "ColourProfileWarning",
    "Condition",
    "Conventions",
    "DataFolderError",
    "DepthHolesWarning",
    "DepthMap",
    "DepthUnit",
    "DepthUnitWarning",
    "DivergenceError",
    "Edit",
    "EightBitWarning",
    "Generate",
    "InputFileError",
    "JointNetError",
    "JointNetPipeline",
    "JointNetPipelineOutput",
    "JointNetWarning",
    "JointObjective",
    "JointUNet",
    "Labeler",
    "Mesh",
    "MissingPackageError",
    "Modality",
    "ModelFolderError",
    "NonFiniteError",
    "OutputError",
    "PAPER",
    "Panorama",
    "Predict",
    "Projection",
    "PromptTruncatedWarning",
    "RELEASE",
    "RangeError",
    "Refine",
    "Result",
    "RunFolderError",
    "SamplingOptions",
    "ShapeError",
    "Speed",
    "Tiling",
    "UnknownNameError",
    "UnknownWordsWarning",
    "UnsupportedBaseError",
    "build_mesh",
    "depth_from_disparity",
    "get_labeler",
    "get_modality",
    "get_projection",
    "leave_openvino",
    "load",
    "read_depth",
    "register_modality",
    "registered_modalities",
    "use_openvino",
    "write_mesh",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jointnet' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), _INNER_NAMES.get(name, name))


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
