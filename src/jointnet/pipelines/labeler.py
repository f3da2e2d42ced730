"""A joint model's prediction as a labeler of training data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jointnet.errors import UnknownNameError
from jointnet.files.fingerprints import of_config, of_networks, of_texts
from jointnet.modalities.modality import within_limits
from jointnet.pipelines.joint_net import JointNetPipeline


@dataclass(frozen=True, kw_only=True, eq=False)
class JointNetLabeler:
    """The map of one modality that a joint model predicts from a picture, without a prompt.

    Every picture starts from the same noise, so that its map depends on it alone.
    Attributes:
        steps: of denoising; seed: of the noise.
    """

    modality: str
    pipeline: JointNetPipeline
    steps: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises: UnknownNameError if the model does not make the modality."""
        dense = [name for name in self.pipeline.modalities if name != "rgb"]
        if self.modality not in dense:
            raise UnknownNameError(f"got a joint model that makes {', '.join(dense)}; expected one that makes {self.modality}")

    @property
    def device(self) -> torch.device:
        """Where the pipeline is."""
        return self.pipeline.device

    @property
    def depth_near_m(self) -> float | None:
        """The distance in metres at which its depth reads 1; None if its disparity is known up to scale and shift."""
        return self.pipeline.config.depth_near_m

    def to(self, device: torch.device | str) -> JointNetLabeler:
        """Move the pipeline, and return this labeler."""
        self.pipeline.to(device)
        return self

    def __call__(self, rgb: Tensor) -> Tensor:
        """Predict maps in the meaning the model was trained to, clipped to the range: no quantiles are taken.

        Shapes: (B, 3, H, W) in [0, 1] -> (B, c, H, W) in the modality's range, on the pictures' device.
        Raises: ShapeError.
        """
        generators = [torch.Generator().manual_seed(self.seed) for _ in rgb]
        output = self.pipeline.predict(rgb, num_inference_steps=self.steps, generator=generators, output_type="pt")
        return within_limits(self.modality, output.dense[self.modality]).to(rgb.device)

    def fingerprint(self) -> str:
        """Return name, weights, and a hash of the settings and the scheduler's config."""
        settings = (self.modality, str(self.steps), str(self.seed), *of_config(self.pipeline.scheduler.config))
        return f"jointnet {of_networks(self.pipeline.components)} {of_texts(settings)}"
