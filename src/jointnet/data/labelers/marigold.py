"""Marigold: depth or normals by diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from jointnet.checkpoints.folder import BROKEN, first_line
from jointnet.checkpoints.index import pipeline_class
from jointnet.checkpoints.opening import check_weights
from jointnet.data.labelers.labeler import check_pictures
from jointnet.data.labelers.network import finish
from jointnet.data.labelers.quantiles import HIGH, LOW, quantiles_to_01
from jointnet.errors import ModelFolderError, RangeError
from jointnet.files.fingerprints import of_config, of_networks, of_texts
from jointnet.modalities.modality import resize_picture, resize_smooth

_CLASSES = {"depth": "MarigoldDepthPipeline", "normal": "MarigoldNormalsPipeline"}
_SIZE, _STEPS = 768, 4
"""Where a folder states none: pixels a side, as the authors', and denoising steps."""

FAR_OVER_NEAR = 4.0
"""An assumption: the rooms of the demo's world have 2.5 to 5.4, half of them below 3.8 (a test). Of photos it has not been measured."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Marigold:
    """A pipeline of Marigold that labels.

    Every picture starts from the same noise, so that its map depends on it alone.
    Attributes:
        size: pixels a side at which it reads; steps: of denoising; seed: of the noise.
        far_over_near: how many times farther than the near one (2 % quantile) the far one (98 %) is taken to be, where depth is estimated.
    """

    modality: str
    pipeline: DiffusionPipeline
    size: int
    steps: int
    seed: int = 0
    far_over_near: float = FAR_OVER_NEAR

    def __post_init__(self) -> None:
        """Raises: RangeError."""
        if not self.far_over_near > 1:
            raise RangeError(f"got far_over_near {self.far_over_near:g}; expected a number above 1")

    @property
    def device(self) -> torch.device:
        """Where the pipeline is."""
        return self.pipeline.device

    def to(self, device: torch.device | str) -> Marigold:
        """Move the pipeline, and return this labeler."""
        self.pipeline.to(device)
        return self

    def __call__(self, rgb: Tensor) -> Tensor:
        """Estimate maps; depth as ``disparity_of_depth`` says. Marigold's normals have our axes: x right, y up, z towards the camera.

        Shapes: (B, 3, H, W) in [0, 1] -> depth (B, 1, H, W) in [0, 1], normals (B, 3, H, W) of length 1, on the pictures' device.
        Raises: ShapeError.
        """
        raw = self.raw(rgb)
        return disparity_of_depth(raw, self.far_over_near) if self.estimates_depth else finish(self.modality, raw)

    @property
    def estimates_depth(self) -> bool:
        """True if its raw maps are depth up to scale and shift, not disparity or normals."""
        return self.modality == "depth" and self.pipeline.config["prediction_type"] == "depth"

    @torch.no_grad()
    def raw(self, rgb: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """What the pipeline says of pictures resized to its square, resized to the pictures: (B, c, H, W).

        ``seeds``: of the noise of each picture; None: the same for all. Raises: ShapeError.
        """
        check_pictures(rgb)
        squares = resize_picture(rgb.to(self.device, torch.float32), (self.size, self.size))
        raw = self.pipeline(  # pyright: ignore[reportCallIssue] - of a pipeline of any kind
            squares,
            num_inference_steps=self.steps,
            processing_resolution=0,
            match_input_resolution=False,
            batch_size=len(squares),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds or [self.seed] * len(squares)],
            output_type="pt",
        ).prediction  # (B, c, size, size)
        return resize_smooth(raw.float(), (rgb.shape[-2], rgb.shape[-1])).to(rgb.device)

    def fingerprint(self) -> str:
        """Return name, weights, and a hash of the settings and the scheduler's config."""
        kind = str(self.pipeline.config.get("prediction_type"))
        settings = (kind, *map(str, (self.size, self.steps, self.seed, self.far_over_near, LOW, HIGH)))
        scheduler = of_config(self.pipeline.components["scheduler"].config)
        return f"marigold {of_networks(self.pipeline.components)} {of_texts((*settings, *scheduler))}"


def disparity_of_depth(depth: Tensor, far_over_near: float) -> Tensor:
    """Turn depth that is known up to scale and shift into disparity.

    Its quantiles t in [0, 1] are distances near + t (far - near). An affine map keeps no ratio of distances, so what far / near is must be
    assumed: d = (1 / z - 1 / far) / (1 / near - 1 / far) = (1 - t) / (1 + t (far / near - 1)). With far / near -> 1 this is 1 - t.
    Shapes: (B, 1, H, W), large is far -> (B, 1, H, W) in [0, 1], large is near.
    """
    t = quantiles_to_01(depth)
    return (1 - t) / (1 + t * (far_over_near - 1))


def marigold(modality: str, folder: Path) -> Marigold:
    """Open a Marigold pipeline for depth or normals, in float32; size and steps are those that it states.

    Raises: ModelFolderError if the folder is of another pipeline, broken or incomplete.
    Source: Ke et al. 2024, "Repurposing Diffusion-Based Image Generators for Monocular Depth Estimation".
    """
    kind = pipeline_class(folder)
    if kind != _CLASSES[modality]:
        raise ModelFolderError(f"got a {kind} in {str(folder)!r}; expected a {_CLASSES[modality]} for {modality}")
    try:
        pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
    except BROKEN as error:
        raise ModelFolderError(f"cannot load the {kind} in {str(folder)!r}: {first_line(error)}; fetch it again") from error
    networks = {name: pipeline.components[name] for name in ("unet", "vae", "text_encoder")}
    check_weights(folder, networks, named=("unet", "vae"))
    pipeline.set_progress_bar_config(disable=True)
    size, steps = (pipeline.config.get(name) for name in ("default_processing_resolution", "default_denoising_steps"))
    return Marigold(modality=modality, pipeline=pipeline, size=size or _SIZE, steps=steps or _STEPS)
