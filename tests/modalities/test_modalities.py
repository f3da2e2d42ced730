from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from jointnet.modalities.codec import CodecTiles, LatentCodec
from jointnet.modalities.resize import resize_picture, resize_smooth
from torch import Tensor

from jointnet import get_modality, register_modality, registered_modalities
from jointnet.errors import RangeError, ShapeError, UnknownNameError
from jointnet.modalities import DEPTH, NORMAL, RGB
from jointnet.modalities.write import FloatArray, Png8, Png16
from tests.conftest import read_png, tiny_pipeline


def unit(*shape: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape), dim=1)


@pytest.mark.parametrize(("modality", "maps"), [(RGB, torch.rand(2, 3, 8, 8)), (DEPTH, torch.rand(2, 1, 8, 8)), (NORMAL, unit(2, 3, 8, 8))])
def test_encode_and_decode_are_inverse(modality, maps: Tensor) -> None:
    images = modality.encode(maps)
    assert images.shape == (2, 3, 8, 8)
    assert images.abs().max() <= 1
    assert torch.allclose(modality.decode(images), maps, atol=1e-6)


@pytest.mark.parametrize("resize", [resize_picture, resize_smooth, DEPTH.resize, RGB.resize])
def test_a_ramp_that_is_enlarged_and_brought_back_is_the_ramp(resize: Callable[[Tensor, tuple[int, int]], Tensor]) -> None:
    down, across = torch.meshgrid(torch.linspace(0, 1, 24), torch.linspace(0, 1, 32), indexing="ij")
    ramp = (0.7 * across + 0.2 * down)[None, None]
    large = resize(ramp, (48, 96))
    inside = (..., slice(6, -6), slice(6, -6))
    expected = 0.7 * ((torch.arange(96) + 0.5) / 3 - 0.5) / 31 + 0.2 * (((torch.arange(48) + 0.5) / 2 - 0.5) / 23)[:, None]
    assert torch.allclose(large[0, 0][inside], expected[inside], atol=0.01)
    assert torch.allclose(resize(large, (24, 32))[inside], ramp[inside], atol=0.01)


def test_resized_normals_stay_where_they_are_and_unit() -> None:
    left, right = unit(1, 3, 1, 1), unit(1, 3, 1, 1)
    halves = torch.cat([left.expand(-1, -1, 16, 16), right.expand(-1, -1, 16, 16)], -1)
    large = NORMAL.resize(halves, (32, 96))
    assert torch.allclose(large.norm(dim=1), torch.ones(1, 32, 96), atol=1e-5)
    assert torch.allclose(large[..., :36], left.expand(-1, -1, 32, 36), atol=1e-5)
    assert torch.allclose(large[..., -36:], right.expand(-1, -1, 32, 36), atol=1e-5)


def test_no_normal_stays_none() -> None:
    maps = unit(1, 3, 4, 4)
    maps[:, :, 0] = 0
    assert torch.equal(NORMAL.decode(NORMAL.encode(maps) + 0.05)[:, :, 0], torch.zeros(1, 3, 4))


@pytest.mark.parametrize(
    ("modality", "maps"),
    [
        (RGB, torch.full((1, 3, 4, 4), 1.5)),
        (RGB, torch.full((1, 3, 4, 4), torch.nan)),
        (DEPTH, torch.full((1, 1, 4, 4), -0.2)),
        (DEPTH, torch.full((1, 1, 4, 4), torch.inf)),
        (NORMAL, torch.full((1, 3, 4, 4), 3.0)),
    ],
)
def test_values_out_of_range_are_refused(modality, maps: Tensor) -> None:
    with pytest.raises(RangeError, match="expected"):
        modality.encode(maps)


def test_a_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(ShapeError, match="\\(B, 1, H, W\\)"):
        DEPTH.encode(torch.rand(1, 3, 4, 4))


def test_depth_png_keeps_16_bits(tmp_path: Path) -> None:
    depth = torch.rand(1, 9, 7)
    Png16(depth).write(tmp_path / "d.png")
    read = read_png(tmp_path / "d.png").astype(np.float64) / 65535
    assert read.shape == (9, 7)
    assert np.abs(read - depth[0].numpy()).max() <= 0.5 / 65535 + 1e-7


def test_float_files_are_not_clipped(tmp_path: Path) -> None:
    depth = torch.tensor([[[-0.5, 1.7]]])
    FloatArray(depth).write(tmp_path / "d.npy")
    read = np.load(tmp_path / "d.npy")
    assert read.dtype == np.float32
    assert read.tolist() == depth[0].tolist()


def test_colour_png_rounds_to_the_nearest_level(tmp_path: Path) -> None:
    image = torch.rand(3, 5, 6)
    Png8(image).write(tmp_path / "i.png")
    read = read_png(tmp_path / "i.png").transpose(2, 0, 1) / 255
    assert np.abs(read - image.numpy()).max() <= 0.5 / 255 + 1e-6


def test_files_of_a_modality_are_named_for_it() -> None:
    assert set(DEPTH.files(torch.rand(1, 4, 4))) == {"depth.png", "depth.npy", "depth_preview.png"}
    assert set(NORMAL.files(torch.rand(3, 4, 4))) == {"normal.png", "normal.npy"}
    assert set(RGB.files(torch.rand(3, 4, 4))) == {"image.png"}


def test_a_user_registers_a_modality_in_one_file() -> None:
    class Albedo:
        name = "albedo_for_test"
        channels = 3
        limits = (0.0, 1.0)
        meaning = "linear albedo in [0, 1]"

        def encode(self, maps: Tensor) -> Tensor:
            return maps * 2 - 1

        def decode(self, images: Tensor) -> Tensor:
            return (images + 1) / 2

        def merge(self, maps: Tensor) -> tuple[Tensor, Tensor]:
            return maps.mean(0), maps.std(0).mean(0, keepdim=True)

        def resize(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
            return resize_smooth(maps, size)

        def files(self, map_: Tensor) -> dict:
            return {"albedo.npy": FloatArray(map_)}

    albedo = register_modality(Albedo())
    assert get_modality("albedo_for_test") is albedo
    assert "albedo_for_test" in registered_modalities()
    pipeline = tiny_pipeline(("rgb", "albedo_for_test"))
    output = pipeline("a red ball", num_inference_steps=2, output_type="np")
    assert output.dense["albedo_for_test"].shape == (1, 32, 32, 3)
    predicted = pipeline.predict(torch.rand(1, 3, 24, 40), ensemble=2, num_inference_steps=2, output_type="pt")
    assert predicted.dense["albedo_for_test"].shape == (1, 3, 24, 40)
    assert predicted.uncertainty["albedo_for_test"].shape == (1, 1, 24, 40)
    refined = pipeline.refine(
        torch.rand(1, 3, 24, 40), {"albedo_for_test": torch.rand(1, 3, 24, 40)}, num_inference_steps=3, output_type="pt"
    )
    assert refined.dense["albedo_for_test"].isfinite().all()
    with pytest.raises(UnknownNameError, match="registered already"):
        register_modality(Albedo())


def test_what_is_no_modality_is_refused_by_what_it_lacks() -> None:
    class Half:
        name = "half"
        channels = 1

    with pytest.raises(UnknownNameError, match="without limits, meaning, encode, decode, merge, resize, files"):
        register_modality(Half())  # pyright: ignore[reportArgumentType] - that is the test
    assert "half" not in registered_modalities()


def test_modalities_of_installed_packages_are_found(tmp_path: Path) -> None:
    """In a process of its own, with a package that names its module as an entry point."""
    (tmp_path / "heat.py").write_text(
        "from jointnet.modalities.depth import Depth\n"
        "import jointnet\n"
        "class Heat(Depth):\n"
        "    name = 'heat'\n"
        "jointnet.register_modality(Heat())\n"
    )
    facts = tmp_path / "heat-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: heat\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[jointnet.modalities]\nheat = heat\n")
    for code in ("print(jointnet.get_modality('heat').name)", "print(*(n for n in jointnet.registered_modalities() if n == 'heat'))"):
        done = subprocess.run(
            [sys.executable, "-c", f"import jointnet; {code}"],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == "heat", done.stderr


def test_an_unknown_modality_lists_the_known() -> None:
    with pytest.raises(UnknownNameError, match="depth, normal, rgb"):
        get_modality("thermal")


@torch.no_grad()
def test_the_codec_is_deterministic_and_scales_by_the_config() -> None:
    vae = tiny_pipeline().vae
    vae.register_to_config(scaling_factor=0.5)
    codec, images = LatentCodec(vae), torch.rand(1, 3, 16, 16)
    latents = codec.encode("rgb", images)
    assert torch.equal(latents, codec.encode("rgb", images))
    assert torch.allclose(latents, vae.encode(images * 2 - 1).latent_dist.mean * 0.5, atol=1e-5)
    assert torch.equal(codec.decode("rgb", latents), ((vae.decode(latents / 0.5).sample + 1) / 2).clamp(0, 1))
    drawn = codec.encode("rgb", images, torch.Generator().manual_seed(0))
    assert not torch.equal(drawn, latents)


@pytest.mark.parametrize("wraps", [True, False])
def test_tiles_of_the_autoencoder_have_no_seam_where_they_wrap(wraps: bool) -> None:
    codec = LatentCodec(tiny_pipeline().vae, CodecTiles(window=16, wraps=wraps))
    g = torch.Generator().manual_seed(0)
    latents, maps = torch.randn(1, 4, 16, 48, generator=g), torch.rand(1, 1, 32, 96, generator=g)
    with torch.no_grad():
        decoded, turned = codec.decode("depth", latents), codec.decode("depth", latents.roll(12, -1))  # a window's stride
        encoded, shifted = codec.encode("depth", maps), codec.encode("depth", maps.roll(24, -1))
    assert torch.allclose(decoded.roll(24, -1), turned, atol=1e-5) == wraps
    assert torch.allclose(encoded.roll(12, -1), shifted, atol=1e-5) == wraps


def test_the_codec_uses_shifts_and_statistics_of_each_channel() -> None:
    vae, images = tiny_pipeline().vae, torch.rand(1, 3, 16, 16)
    mean = vae.encode(images * 2 - 1).latent_dist.mean
    vae.register_to_config(scaling_factor=0.5, shift_factor=0.25)
    assert torch.allclose(LatentCodec(vae).encode("rgb", images), (mean - 0.25) * 0.5, atol=1e-5)
    decoded = LatentCodec(vae).decode("rgb", (mean - 0.25) * 0.5)
    assert torch.allclose(decoded, ((vae.decode(mean).sample + 1) / 2).clamp(0, 1), atol=1e-5)
    vae.register_to_config(
        latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 3.0, 4.0]
    )  # these go before the shift, as in diffusers
    shift, spread = (torch.tensor(vae.config[name])[:, None, None] for name in ("latents_mean", "latents_std"))
    assert torch.allclose(LatentCodec(vae).encode("rgb", images), (mean - shift) * 0.5 / spread, atol=1e-5)


def test_the_codec_refuses_sizes_it_would_crop() -> None:
    with pytest.raises(ShapeError, match="multiples of 2"):
        LatentCodec(tiny_pipeline().vae).encode("rgb", torch.rand(1, 3, 15, 16))
