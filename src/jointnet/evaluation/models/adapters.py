"""Models of this package and of the libraries, as ``Predictor`` and ``Generator``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from jointnet.checkpoints.folder import BROKEN, first_line
from jointnet.data.labelers.marigold import Marigold
from jointnet.data.labelers.network import NetworkLabeler
from jointnet.errors import ModelFolderError
from jointnet.evaluation.models.settings import ModelSettings
from jointnet.tasks.generate import Generate
from jointnet.tasks.options import DEFAULT_STEPS, SamplingOptions
from jointnet.tasks.predict import Predict


def generators_of(seeds: Sequence[int]) -> list[torch.Generator]:
    """Return one generator each, on the CPU, so that a seed means the same on every device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@dataclass(frozen=True, kw_only=True)
class JointNet:
    """A joint model.

    Attributes:
        pipeline: a JointNetPipeline.
        steps: of denoising.
        ensemble: samples that a prediction is merged from.
        size: height and width at which pictures are made; None: the model's own.
        guidance: None: the model's own.
    """

    pipeline: Any
    steps: int = 50
    ensemble: int = 1
    size: tuple[int, int] | None = None
    guidance: float | None = None

    @classmethod
    def opened(cls, pipeline: Any, settings: ModelSettings) -> JointNet:
        """With the model's own settings where none was chosen."""
        return cls(
            pipeline=pipeline,
            steps=settings.steps or pipeline.config.default_steps or DEFAULT_STEPS,
            ensemble=settings.ensemble or 1,
            size=settings.size,
            guidance=settings.guidance,
        )

    def predict(self, rgb: Tensor, seeds: Sequence[int]) -> dict[str, Tensor]:
        """See ``Predictor``: depth is disparity up to scale and shift, as labels leave it."""
        options = SamplingOptions(num_inference_steps=self.steps, generator=generators_of(seeds))
        maps = self.pipeline.run(Predict(image=rgb, ensemble=self.ensemble, options=options)).maps
        found = {"disparity_affine_invariant": maps["depth"][:, 0]} if "depth" in maps else {}
        return {**found, **({"normal": maps["normal"]} if "normal" in maps else {})}

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> dict[str, Tensor]:
        """See ``Generator``."""
        options = SamplingOptions(num_inference_steps=self.steps, generator=generators_of(seeds), guidance_scale=self.guidance)
        height, width = self.size or (None, None)
        return dict(self.pipeline.run(Generate(prompt=list(prompts), height=height, width=width, options=options)).maps)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of transformers that is a labeler too: MiDaS, Depth Anything V2, Omnidata's normals. Its raw maps, without quantiles."""

    labeler: NetworkLabeler

    def predict(self, rgb: Tensor, seeds: Sequence[int]) -> dict[str, Tensor]:  # noqa: ARG002 - nothing is drawn
        """See ``Predictor``."""
        raw = self.labeler.raw(rgb)
        return {"normal": raw} if self.labeler.modality == "normal" else {"disparity_affine_invariant": raw[:, 0]}


@dataclass(frozen=True, kw_only=True)
class MarigoldModel:
    """A pipeline of Marigold."""

    labeler: Marigold

    def predict(self, rgb: Tensor, seeds: Sequence[int]) -> dict[str, Tensor]:
        """See ``Predictor``."""
        raw = self.labeler.raw(rgb, seeds)
        if self.labeler.modality == "normal":
            return {"normal": raw}
        return {"depth_affine_invariant" if self.labeler.estimates_depth else "disparity_affine_invariant": raw[:, 0]}


@dataclass(frozen=True, kw_only=True)
class TextToImage:
    """A text-to-image pipeline of diffusers; LDM3D's makes depth too.

    Attributes:
        pipeline, steps, size: as ``JointNet``'s; guidance: None: the pipeline's default.
    """

    pipeline: Any
    steps: int = 50
    size: tuple[int, int] | None = None
    guidance: float | None = None

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> dict[str, Tensor]:
        """See ``Generator``."""
        chosen = {} if self.guidance is None else {"guidance_scale": self.guidance}
        if self.size is not None:
            chosen |= {"height": self.size[0], "width": self.size[1]}
        self.pipeline.set_progress_bar_config(disable=True)
        if type(self.pipeline).__name__ == "StableDiffusionLDM3DPipeline":
            return self._rgbd(prompts, seeds, chosen)
        images = self.pipeline(
            list(prompts), num_inference_steps=self.steps, generator=generators_of(seeds), output_type="pt", return_dict=False, **chosen
        )[0]
        return {"rgb": images.float().cpu().clamp(0, 1)}

    def _rgbd(self, prompts: Sequence[str], seeds: Sequence[int], chosen: dict[str, Any]) -> dict[str, Tensor]:
        """RGB and disparity of LDM3D's decoder: four channels, or six, of which the last two are the bytes of 16 bits.

        The pipeline's own reading of six channels as arrays is 0 everywhere, so its last latents are decoded here.
        """
        last: list[Tensor] = []

        def keep(_pipeline: Any, _step: int, _t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            last[:] = [tensors["latents"]]
            return tensors

        self.pipeline(
            list(prompts),
            num_inference_steps=self.steps,
            generator=generators_of(seeds),
            output_type="np",
            callback_on_step_end=keep,
            **chosen,
        )
        vae = self.pipeline.vae
        with torch.no_grad():
            decoded = (vae.decode(last[0] / vae.config.scaling_factor, return_dict=False)[0].float().cpu() / 2 + 0.5).clamp(0, 1)
        if decoded.shape[1] == 4:
            return {"rgb": decoded[:, :3], "depth": decoded[:, 3:]}
        high, low = (decoded[:, channel : channel + 1].mul(255).round() for channel in (4, 5))
        return {"rgb": decoded[:, :3], "depth": (high * 256 + low) / 65535}


def open_text_to_image(folder: Path, kind: type[DiffusionPipeline] = DiffusionPipeline) -> DiffusionPipeline:
    """Open a pipeline of diffusers. Raises: ModelFolderError."""
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except BROKEN as error:
        raise ModelFolderError(f"cannot load the pipeline in {str(folder)!r}: {first_line(error)}; fetch it again") from error
