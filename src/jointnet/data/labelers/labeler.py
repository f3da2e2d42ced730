"""What a labeler is."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from jointnet.errors import JointNetError, LabelerError, ShapeError
from jointnet.files.write_errors import reason


@runtime_checkable
class Labeler(Protocol):
    """A frozen network, or any callable, that estimates the maps of one modality from pictures (Sec. 3.3)."""

    @property
    def modality(self) -> str:
        """The modality of its maps."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it runs; pictures may come from anywhere."""
        ...

    def to(self, device: torch.device | str) -> Labeler:
        """Return the labeler on another device."""
        ...

    def __call__(self, rgb: Tensor) -> Tensor:
        """Estimate maps. Each picture's map depends on this picture only.

        Shapes: (B, 3, H, W) in [0, 1] -> (B, c, H, W) in the range of the modality, on the picture's device.
        """
        ...

    def fingerprint(self) -> str:
        """Return a text that changes with the weights and with all that changes the maps."""
        ...


@torch.no_grad()
def label(labeler: Labeler, rgb: Tensor) -> Tensor:
    """Call a labeler, which may be a user's own. Shapes: as the call's. Raises: LabelerError; JointNetError as the labeler does."""
    height, width = rgb.shape[-2:]
    with naming_labeler(labeler.modality, f" at {len(rgb)} pictures of {width} x {height}"):
        return labeler(rgb)


@contextmanager
def naming_labeler(modality: str, where: str = "") -> Iterator[None]:
    """Raise whatever a labeler of this modality raises as one line that says what and in which line of its code. Raises: LabelerError."""
    try:
        yield
    except JointNetError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        frame = [each for each in frames if "site-packages" not in each.filename or each is frames[0]][-1]  # not in the middle of torch
        is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
        remedy = "free memory, or choose another device or smaller pictures" if is_memory else "mend it"
        raise LabelerError(
            f"the labeler of {modality} fails{where}: {type(error).__name__}: {reason(error)} ({Path(frame.filename).name}, line "
            f"{frame.lineno}); {remedy}, then start the command again"
        ) from error


def check_pictures(rgb: Tensor) -> None:
    """Raises: ShapeError unless they are (B, 3, H, W)."""
    if rgb.ndim != 4 or rgb.shape[1] != 3:
        raise ShapeError(f"got pictures of shape {tuple(rgb.shape)}; expected (B, 3, H, W) in [0, 1]")
