from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from jointnet import get_modality, register_modality, registered_modalities
from jointnet.codecs.codec import CodecTiles
from jointnet.codecs.latent import LatentCodec
from jointnet.errors import RangeError, ShapeError, UnknownNameError
from jointnet.modalities import DEPTH, NORMAL, RGB, Modality
from jointnet.modalities import modality as registry
from jointnet.modalities.modality import files_of_maps, resize_picture, resize_smooth
from jointnet.modalities.read import read_map
from jointnet.modalities.write import FloatArray, Png8, Png16
from jointnet.tasks.task import asked_if_any, asked_if_nearest
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
    depth = torch.rand(1, 4, 4)
    assert list(files_of_maps({"rgb": torch.rand(3, 4, 4), "depth": depth}, {"depth": depth})) == [
        "image.png",
        "depth.png",
        "depth.npy",
        "depth_preview.png",
        "depth_uncertainty.npy",
        "depth_uncertainty.png",
    ]


def test_a_pixel_of_a_smaller_mask_is_asked_where_any_below_it_is() -> None:
    asked = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    asked[..., 5, 2] = True
    assert asked_if_any(asked, (2, 4)).tolist() == [[[[False] * 4, [False, True, False, False]]]]
    assert asked_if_nearest(asked, (2, 4)).dtype == torch.bool
    assert not asked_if_nearest(asked, (2, 4)).any()
    assert asked_if_any(asked, (8, 8)) is asked


def _whole_classes(maps: Tensor) -> Tensor:
    """The nearest of five classes at 0, 0.25 to 1."""
    return (maps.clamp(0, 1) * 4).round() / 4


SEGMENTATION = register_modality(
    Modality(
        name="segmentation_for_test",
        channels=1,
        meaning="one of five classes, class / 4",
        settle=_whole_classes,
        resize=lambda maps, size: interpolate(maps, size=size, mode="nearest"),
        merge=lambda maps: (maps.mode(0).values, maps.std(0)),
    )
)

ALBEDO = register_modality(Modality(name="albedo_for_test", channels=3, meaning="linear albedo in [0, 1]"))


def test_a_user_registers_a_modality_of_the_defaults(tmp_path: Path) -> None:
    assert get_modality("albedo_for_test") is ALBEDO
    assert "albedo_for_test" in registered_modalities()
    maps = torch.rand(2, 3, 8, 8)
    assert torch.allclose(ALBEDO.decode(ALBEDO.encode(maps)), maps, atol=1e-6)
    assert torch.equal(ALBEDO.decode(torch.full((1, 3, 2, 2), 1.2)), torch.full((1, 3, 2, 2), 1.1))  # not clipped
    assert ALBEDO.resize(maps, (4, 6)).shape == (2, 3, 4, 6)
    assert [part.shape for part in ALBEDO.merge(maps)] == [(3, 8, 8), (1, 8, 8)]
    for name, content in ALBEDO.files(maps[0]).items():
        content.write(tmp_path / name)
    assert torch.equal(read_map(tmp_path / "albedo_for_test.npy", "albedo_for_test"), maps[:1])
    assert torch.allclose(read_map(tmp_path / "albedo_for_test.png", "albedo_for_test"), maps[:1], atol=0.5 / 255 + 1e-6)
    with pytest.raises(UnknownNameError, match="registered already"):
        register_modality(Modality(name="albedo_for_test", channels=3, meaning="another"))


def test_a_user_registers_a_modality_with_functions_of_its_own(tmp_path: Path) -> None:
    classes = torch.randint(5, (1, 1, 8, 8)) / 4
    noisy = SEGMENTATION.encode(classes) + 0.1 * torch.randn(1, 3, 8, 8).clamp(-1, 1)
    assert torch.equal(SEGMENTATION.decode(noisy), classes)
    assert set(SEGMENTATION.resize(classes, (5, 12)).unique().tolist()) <= {0, 0.25, 0.5, 0.75, 1}
    files = SEGMENTATION.files(classes[0])
    assert set(files) == {f"segmentation_for_test{end}" for end in (".png", ".npy", "_preview.png")}
    files["segmentation_for_test.png"].write(tmp_path / "s.png")
    assert torch.allclose(read_map(tmp_path / "s.png", "segmentation_for_test"), classes, atol=1e-4)


def test_a_registered_modality_goes_through_a_pipeline() -> None:
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


class Halved(Modality):
    """Overrides a method and two fields."""

    def decode(self, images: Tensor) -> Tensor:
        return super().decode(images) / 2

    def settle(self, maps: Tensor) -> Tensor:
        return maps.clamp(*self.limits)

    def merge(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        return maps[0], torch.full_like(maps[0, :1], float(len(maps)))


def test_a_subclass_overrides_methods_and_fields() -> None:
    halved = Halved(name="halved", channels=1, meaning="for a test", limits=(0.0, 4.0))
    assert halved.decode(torch.full((1, 3, 2, 2), 5.0)).unique().tolist() == [2]
    assert halved.merge(torch.rand(3, 1, 2, 2))[1].unique().tolist() == [3]
    assert halved.resize(torch.rand(1, 1, 2, 2), (4, 4)).shape == (1, 1, 4, 4)
    assert torch.equal(replace(halved, name="other").decode(torch.ones(1, 3, 1, 1)), torch.full((1, 1, 1, 1), 2.0))


def test_a_changed_copy_writes_files_of_its_own_name() -> None:
    assert set(replace(DEPTH, name="heat").files(torch.rand(1, 4, 4))) == {"heat.png", "heat.npy", "heat_preview.png"}


@pytest.mark.parametrize("limits", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-20.0, 60.0)])
def test_limits_become_the_networks_range_and_come_back(limits: tuple[float, float]) -> None:
    modality = Modality(name="any", channels=1, meaning="for a test", limits=limits)
    low, high = limits
    maps = torch.tensor([low, (low + high) / 2, high]).view(1, 1, 1, 3)
    assert torch.equal(modality.encode(maps), torch.tensor([-1.0, 0, 1]).view(1, 1, 1, 3).expand(1, 3, 1, 3))
    assert torch.equal(modality.decode(modality.encode(maps)), maps)


def test_maps_of_the_size_stay_as_they_are() -> None:
    for modality in (RGB, DEPTH, ALBEDO):
        maps = torch.rand(1, modality.channels, 4, 5) * 1.2
        assert modality.resize(maps, (4, 5)) is maps


def test_a_form_of_no_modality_is_refused() -> None:
    with pytest.raises(ShapeError, match="of 2 channels; expected 1 or 3"):
        Modality(name="flow", channels=2, meaning="for a test")
    for limits in ((1.0, 0.0), (0.0, float("inf")), (0.0, float("nan"))):
        with pytest.raises(RangeError, match="expected two finite numbers"):
            Modality(name="any", channels=1, meaning="for a test", limits=limits)
    with pytest.raises(UnknownNameError, match="letters, digits and underscores"):
        register_modality(Modality(name="a b", channels=1, meaning="for a test"))


def test_a_class_of_the_former_protocol_is_refused_with_the_remedy() -> None:
    class Former:
        name = "former"
        channels = 1
        limits = (0.0, 1.0)
        meaning = "a class with every method of a modality"
        encode = decode = merge = resize = files = lambda *_: None

    for value in (Former(), Former):
        with pytest.raises(UnknownNameError, match=r"got Former, which is no Modality; pass jointnet\.Modality\(name.* inherits from it"):
            register_modality(value)  # pyright: ignore[reportArgumentType] - that is the test
    assert "former" not in registered_modalities()


def test_modalities_of_installed_packages_are_found_and_scanned_for_once(tmp_path: Path) -> None:
    """In a process of its own, with a package that names its module as an entry point."""
    (tmp_path / "heat.py").write_text(
        "import dataclasses, jointnet\n"
        "from jointnet.modalities import DEPTH\n"
        "jointnet.register_modality(dataclasses.replace(DEPTH, name='heat'))\n"
    )
    facts = tmp_path / "heat-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: heat\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[jointnet.modalities]\nheat = heat\n")
    once = (
        "from jointnet.modalities import modality as m; calls, scan = [], m.entry_points; "
        "m.entry_points = lambda **group: (calls.append(group), scan(**group))[1]; "
        "[jointnet.registered_modalities() for _ in range(3)]; print('heat' * len(calls))"
    )
    for code in (
        "print(jointnet.get_modality('heat').name)",
        "print(*(n for n in jointnet.registered_modalities() if n == 'heat'))",
        once,
    ):
        path = os.pathsep.join(p for p in (str(tmp_path), os.environ.get("PYTHONPATH")) if p)
        done = subprocess.run(
            [sys.executable, "-c", f"import jointnet; {code}"],
            env={**os.environ, "PYTHONPATH": path},
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


@pytest.mark.parametrize("name", ["", "../warm.npy", "a\\warm.npy", "warm", ".npy", "a\nb.npy", "result.json", "Image.png", "scene.glb"])
def test_names_of_own_files_are_checked_at_registration(name: str) -> None:
    heat = Modality(name="heat_of_a_wrong_file", channels=1, meaning="warm is 1", own_files=lambda map_: {name: FloatArray(map_)})
    with pytest.raises(UnknownNameError, match="heat_of_a_wrong_file"):
        register_modality(heat)
    assert "heat_of_a_wrong_file" not in registered_modalities()


def test_two_modalities_write_no_file_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    register_modality(Modality(name="heat", channels=1, meaning="warm is 1", own_files=lambda map_: {"Depth.npy": FloatArray(map_)}))
    with pytest.raises(UnknownNameError, match="which another one writes too"):
        registry.file_names(["rgb", "depth", "heat"])
