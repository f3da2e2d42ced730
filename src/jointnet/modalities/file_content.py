"""Content of a file that lies in another one, such as a shard, and is read by the same rules as a file on disk."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath


@dataclass(frozen=True)
class FileContent:
    """Bytes of a file with the name by which errors call it; it has what the readers of maps use of a path.

    Attributes:
        max_pixels: more than these are refused before they are decoded; None: as in a file on disk.
    """

    path: str
    content: bytes
    max_pixels: int | None = None

    def __str__(self) -> str:
        return self.path

    @property
    def name(self) -> str:
        """Name without folders."""
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        """Suffix of the name, with its dot."""
        return PurePosixPath(self.path).suffix

    def open(self, mode: str = "rb") -> BytesIO:
        """Return the content as a binary file."""
        assert mode == "rb", mode
        return BytesIO(self.content)
