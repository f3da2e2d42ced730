"""Dense maps -> images of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jointnet.modalities.read import MapInput, as_maps
from jointnet.tasks.denoise import result_of, sample_once
from jointnet.tasks.model import JointModel
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.output import Result
from jointnet.tasks.task import all_known


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Some dense maps are wholly known, the image and the other maps are sampled.

    Attributes:
        dense: modality -> maps in the range it states, any size: {"depth": disparity}.
    Source: Sec. 4.1, 5.2.
    """

    dense: Mapping[str, MapInput]
    prompt: str | list[str] | None = ""
    options: SamplingOptions = field(default_factory=SamplingOptions)

    def run(self, model: JointModel) -> Result:
        """Raises: ShapeError, RangeError, UnknownNameError."""
        task = all_known({name: as_maps(name, maps) for name, maps in self.dense.items()})
        return result_of(model, task, sample_once(model, task, self.prompt, self.options))
