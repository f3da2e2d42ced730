"""Files of maps as arguments: --map MODALITY=FILE for any registered modality, --depth and --normal in short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from jointnet.cli.arguments import MAPS, DepthUnitName, named_file
from jointnet.errors import InputFileError

_BUILT_IN = ("rgb", "depth", "normal")
"""Modalities that are known without the registry, which imports torch."""


@dataclass(frozen=True, kw_only=True)
class MapFiles:
    """The maps of a picture, or of several."""

    depth: Annotated[
        list[Path] | None, typer.Option("--depth", metavar="FILE", help="depth as 16-bit PNG or .npy", rich_help_panel=MAPS)
    ] = None
    normal: Annotated[
        list[Path] | None, typer.Option("--normal", metavar="FILE", help="normals as 8-bit PNG or .npy", rich_help_panel=MAPS)
    ] = None
    map_: Annotated[
        list[Any] | None,
        typer.Option(
            "--map",
            parser=named_file,
            metavar="MODALITY=FILE",
            help="a map of any registered modality, such as albedo=albedo.png; repeat it for others",
            rich_help_panel=MAPS,
        ),
    ] = None
    depth_unit: DepthUnitName = "disparity"

    def by_modality(self, images: Sequence[Path] = ()) -> dict[str, list[Path]]:
        """Return the files of each modality, in the order rgb (``images``), depth, normal, others. Raises: UnknownNameError."""
        short = {"rgb": images, "depth": self.depth or (), "normal": self.normal or ()}
        return files_by_modality([*((name, path) for name, paths in short.items() for path in paths), *(self.map_ or ())])

    def single(self, images: Sequence[Path] = ()) -> dict[str, Path]:
        """Return one file of each modality, in the same order. Raises: UnknownNameError, InputFileError."""
        return {name: only_one(f"files of {name}", paths) for name, paths in self.by_modality(images).items()}


def files_by_modality(pairs: Sequence[tuple[str, Path]]) -> dict[str, list[Path]]:
    """Return files by the modality that each is of. Raises: UnknownNameError."""
    files: dict[str, list[Path]] = {}
    for name, path in pairs:
        if name not in _BUILT_IN:
            from jointnet.modalities import get_modality

            get_modality(name)
        files.setdefault(name, []).append(path)
    return files


def only_one(name: str, paths: Sequence[Path]) -> Path:
    """Return the only file. Raises: InputFileError."""
    if len(paths) != 1:
        raise InputFileError(f"got {len(paths)} {name} ({', '.join(map(str, paths))}); pass one")
    return paths[0]
