"""Result sets of maps: ``files.result_set`` for what the commands have in hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from jointnet.files.result_set import Writable, prepare_folder, write_result_set
from jointnet.modalities.modality import files_of_maps

__all__ = ["prepare_folder", "write_set"]


def write_set(
    folder: Path,
    maps: Mapping[str, Tensor],
    result: Mapping[str, Any],
    uncertainty: Mapping[str, Tensor] | None = None,
    more: Mapping[str, Writable] | None = None,
) -> list[Path]:
    """Write one image's maps, each (c, H, W), their uncertainty (1, H, W), further files, and result.json last. Raises: OutputError."""
    return write_result_set(folder, {**files_of_maps(maps, uncertainty), **(more or {})}, result)
