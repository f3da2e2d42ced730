"""A user's own function as a labeler."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from jointnet.data.labelers.labeler import check_pictures
from jointnet.errors import RangeError, ShapeError
from jointnet.files.fingerprints import of_content
from jointnet.modalities.modality import within_limits
from jointnet.modalities.read import as_maps


@dataclass(frozen=True, kw_only=True, eq=False)
class FunctionLabeler:
    """A function of pictures.

    Attributes:
        function: (B, 3, H, W) in [0, 1] -> (B, c, H, W) in the modality's range, on the device of the pictures it gets; each map depends
            on its own picture only.
        name: where it was found, for errors and the fingerprint.
    """

    modality: str
    function: Callable[[Tensor], Tensor]
    name: str
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def to(self, device: torch.device | str) -> FunctionLabeler:
        """Return the labeler with its pictures on another device."""
        return replace(self, device=torch.device(device))

    @torch.no_grad()
    def __call__(self, rgb: Tensor) -> Tensor:
        """Call the function, check its maps as a user's files are, and clip what overshoots.

        Raises: ShapeError, RangeError, naming the function.
        """
        check_pictures(rgb)
        maps = self.function(rgb.to(self.device))
        if not isinstance(maps, Tensor):
            raise ShapeError(f"got {type(maps).__name__} from {self.name}; expected a tensor (B, c, H, W)")
        try:
            maps = as_maps(self.modality, maps)
        except (ShapeError, RangeError) as error:
            raise type(error)(f"{self.name}: {error}") from error
        expected = (len(rgb), *rgb.shape[-2:])
        if (len(maps), *maps.shape[-2:]) != expected:
            raise ShapeError(
                f"got maps {tuple(maps.shape)} from {self.name} for pictures {tuple(rgb.shape)}; expected as many, of their size"
            )
        return within_limits(self.modality, maps).to(rgb.device)

    def fingerprint(self) -> str:
        """Return the name, and a hash of the file that defines the function; what that file imports does not count."""
        of = self.function if inspect.isroutine(self.function) else type(self.function)
        try:
            file = inspect.getsourcefile(of)
        except TypeError:
            file = None
        return f"{self.name} {of_content(Path(file)) if file and Path(file).is_file() else 'unknown'}"
