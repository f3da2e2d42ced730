"""What a mesh can be written as."""

from __future__ import annotations

from pathlib import Path

from jointnet.errors import OutputError

SUFFIXES = (".glb", ".ply")


def check_mesh_path(path: Path) -> None:
    """Raises: OutputError for a suffix that is not one of SUFFIXES."""
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(f"got output file {str(path)!r}; expected one that ends in {' or '.join(SUFFIXES)}")
