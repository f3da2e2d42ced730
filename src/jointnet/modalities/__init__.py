"""Modalities: colour, depth, normals, and those users register."""

from jointnet.modalities.depth import DEPTH
from jointnet.modalities.modality import Modality, get_modality, register, registered_modalities
from jointnet.modalities.normal import NORMAL
from jointnet.modalities.rgb import RGB

__all__ = ["DEPTH", "NORMAL", "RGB", "Modality", "get_modality", "register", "registered_modalities"]
