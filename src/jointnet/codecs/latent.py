"""Maps <-> latents of the base's own RGB autoencoder (Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor
from torch.nn import Module

from jointnet.codecs.codec import CodecTiles, ReadMaps
from jointnet.errors import RangeError, ShapeError
from jointnet.files.fingerprints import of_weights
from jointnet.modalities.modality import Modality, get_modality


class MissingCodec:
    """A Codec for a latent base loaded without its autoencoder: it knows sizes, as diffusers then assumes them, and refuses all else."""

    def __init__(self, channels: int) -> None:
        self.factor = 8
        self.channels = channels

    def encode(self, modality: str, maps: Tensor, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG002 - it only refuses
        """Raises: ShapeError."""
        raise ShapeError(f"got a {modality} map for a pipeline without an autoencoder; load it with its vae")

    def decode(self, modality: str, latents: Tensor) -> Tensor:  # noqa: ARG002 - it only refuses
        """Raises: ShapeError."""
        raise ShapeError(f"got {modality} latents for a pipeline without an autoencoder; ask for output_type='latent', or load its vae")

    def fingerprint(self) -> str:
        """Raises: ShapeError."""
        raise ShapeError("got a pipeline without an autoencoder; load it with its vae")


class LatentCodec:
    """A Codec by an AutoencoderKL or AutoencoderTiny; scaling and shift factors come from its config.

    The posterior's mean is the default, so that a map has one code; a generator asks for a draw from the posterior instead, if there is
    one.
    A half-precision autoencoder whose config has ``force_upcast`` runs in float32, and is in half precision again afterwards.
    """

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny,
        tiles: CodecTiles | None = None,
        device: torch.device | None = None,
        read: ReadMaps = Modality.decode,
    ) -> None:
        """``device`` is where the autoencoder runs; while it is offloaded its weights lie elsewhere."""
        self.vae = vae
        self.tiles = tiles
        self.device = device
        self.read = read
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels = vae.config.latent_channels

    def encode(self, modality: str, maps: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Maps (B, c, H, W) of one modality -> scaled latents (B, C, H / factor, W / factor).

        Raises: ShapeError if H or W is not a multiple of the factor; RangeError.
        """
        if any(side % self.factor for side in maps.shape[-2:]):
            raise ShapeError(f"got a {modality} map of {tuple(maps.shape[-2:])}; expected multiples of {self.factor}")
        images = get_modality(modality).encode(maps)

        def run(part: Tensor) -> Tensor:
            code: Any = self.vae.encode(part.contiguous(memory_format=torch.channels_last))  # faster on a CPU
            if not hasattr(code, "latent_dist"):
                return code.latents  # AutoencoderTiny has no posterior
            return code.latent_dist.mode() if generator is None else code.latent_dist.sample(generator)

        with self._in_enough_precision():
            raw = self._in_tiles(run, images.to(self.device or self.vae.device, self.vae.dtype), self.factor, 1)
        return (raw - self._on(self._shift, raw)) * self._on(self._scale, raw)

    def decode(self, modality: str, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) -> maps (B, c, h * factor, w * factor), float32.

        Raises: RangeError if the autoencoder overflows where it cannot be upcast.
        """

        def decode(part: Tensor) -> Tensor:
            return self.vae.decode(cast(Any, part.contiguous(memory_format=torch.channels_last))).sample

        with self._in_enough_precision():
            scaled = latents.to(self.device or self.vae.device, self.vae.dtype)
            raw = scaled / self._on(self._scale, scaled) + self._on(self._shift, scaled)
            images = self._in_tiles(decode, raw, 1, self.factor)
        if self._overflows_in_its_type and _hooks_hold_weights(self.vae) and not images.isfinite().all():
            raise RangeError(
                f"the autoencoder's {modality} left the range of {self.vae.dtype}; offloading to disk or with a stream, or layerwise "
                "casting, keeps it from being upcast: load it in bfloat16 or float32"
            )
        return self.read(get_modality(modality), images.float())

    def fingerprint(self) -> str:
        """Changes with the autoencoder's weights and its scaling."""
        return f"{of_weights(self.vae)} scaled {self._scale}, {self._shift}"

    def _in_tiles(self, run: Callable[[Tensor], Tensor], values: Tensor, scale_in: int, scale_out: int) -> Tensor:
        """Run the autoencoder's one half on (B, c, H, W), at once or in windows; the scales are pixels a latent pixel has in and out."""
        canvas = [side // scale_in for side in values.shape[-2:]]
        if self.tiles is None or not any(self.tiles.on(canvas, 1).is_cut):
            return run(values)
        inner, outer = self.tiles.on(canvas, scale_in), self.tiles.on(canvas, scale_out)
        weights = outer.weights().to(values)
        total, weight = None, values.new_zeros(outer.canvas)
        for source, target in zip(inner.at(), outer.at(), strict=True):
            tile = run(source.cut(values))
            total = tile.new_zeros(*tile.shape[:2], *outer.canvas) if total is None else total
            target.add_to(total, weights * tile)
            target.add_to(weight, weights)
        assert total is not None, "no tile was run"
        return total / weight

    @property
    def _overflows_in_its_type(self) -> bool:
        """True if the autoencoder's config asks for more than the float16 it has."""
        return self.vae.dtype == torch.float16 and bool(self.vae.config.force_upcast)

    @contextmanager
    def _in_enough_precision(self) -> Iterator[None]:
        """As diffusers does for SDXL's autoencoder, which overflows in float16; not where hooks would undo it."""
        if not self._overflows_in_its_type or _hooks_hold_weights(self.vae):
            yield
            return
        stored = self.vae.dtype
        Module.to(self.vae, torch.float32)  # ModelMixin.to warns of this each time
        try:
            yield
        finally:
            Module.to(self.vae, stored)

    @staticmethod
    def _on(value: float | Tensor, latents: Tensor) -> float | Tensor:
        """A number stays one: in 16 bits it would be rounded."""
        return value.to(latents) if isinstance(value, Tensor) else value

    @property
    def _scale(self) -> float | Tensor:
        """A number, or one a channel (C, 1, 1) for autoencoders with ``latents_std``."""
        spread = self._per_channel("latents_std")
        factor = self.vae.config.scaling_factor
        return factor if spread is None else factor / spread

    @property
    def _shift(self) -> float | Tensor:
        mean = self._per_channel("latents_mean")
        return (getattr(self.vae.config, "shift_factor", None) or 0.0) if mean is None else mean

    def _per_channel(self, name: str) -> Tensor | None:
        values = getattr(self.vae.config, name, None)
        return None if values is None else torch.tensor(values)[:, None, None]


def _hooks_hold_weights(model: Module) -> bool:
    """True where diffusers' hooks bring a model's weights back in the type they have: changed in place, they would not fit its input."""
    for module in model.modules():
        registry = getattr(module, "_diffusers_hook", None)
        if registry is None:
            continue
        if registry.get_hook("layerwise_casting") is not None:
            return True
        offloading = registry.get_hook("group_offloading")
        group = None if offloading is None else offloading.group
        if group is not None and (group.offload_to_disk_path is not None or group.stream is not None):
            return True
    return False
