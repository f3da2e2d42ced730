"""Output folders: checked before the work, and filled so that no half-written file ever has its final name."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from jointnet.errors import OutputError
from jointnet.json_files import read_named_values
from jointnet.modalities import get_modality
from jointnet.modalities.files import ColourPreview, FloatArray
from jointnet.modalities.modality import WritableMap


def prepare_folder(folder: Path) -> Path:
    """Make an output folder and try whether it can be written. Raises: OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"cannot write to output folder {str(folder)!r}: {error.strerror}; choose another with -o") from error
    return folder


def write_set(
    folder: Path,
    maps: Mapping[str, Tensor],
    result: Mapping[str, Any],
    uncertainty: Mapping[str, Tensor] | None = None,
    more: Mapping[str, WritableMap] | None = None,
) -> list[Path]:
    """Write one image's maps, each (c, H, W), in all forms, their uncertainty (1, H, W), what else there is, and result.json last.

    No file gets its name before all of them are written; files of an earlier result that this one does not have are removed.
    Raises: OutputError.
    """
    prepare_folder(folder)
    files: dict[str, WritableMap] = {}
    for name, map_ in maps.items():
        files |= get_modality(name).files(map_)
    for name, map_ in (uncertainty or {}).items():
        files |= {f"{name}_uncertainty.npy": FloatArray(map_), f"{name}_uncertainty.png": ColourPreview(map_)}
    files |= more or {}
    files["result.json"] = _Text(json.dumps({**result, "files": sorted(files)}, indent=2, ensure_ascii=False) + "\n")
    unfinished = {name: folder / f".{name}" for name in files}
    try:
        for name, content in files.items():
            content.write(unfinished[name])
        for name in _earlier_files(folder) - set(files):
            (folder / name).unlink(missing_ok=True)
        for name, path in unfinished.items():
            os.replace(path, folder / name)
    except OSError as error:
        raise OutputError(f"cannot write {str(folder)!r}: {error.strerror}; free space or choose another folder with -o") from error
    finally:
        for path in unfinished.values():
            path.unlink(missing_ok=True)
    return [folder / name for name in files]


def _earlier_files(folder: Path) -> set[str]:
    """Files that an earlier result in the folder wrote beside its result.json; none if that is not ours, or unreadable."""
    try:
        named = read_named_values(folder / "result.json").get("files", [])
    except (OSError, ValueError):
        return set()
    return {name for name in named if isinstance(name, str) and Path(name).name == name} if isinstance(named, list) else set()


@dataclass(frozen=True)
class _Text:
    content: str

    def write(self, path: Path) -> None:
        path.write_text(self.content, encoding="utf-8")
