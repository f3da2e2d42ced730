from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jointnet.codecs.latent import LatentCodec
from jointnet.errors import RangeError, ShapeError, UnknownNameError
from jointnet.modalities.modality import get_modality, resize_picture
from jointnet.pipelines.joint_net import JointNetPipeline
from jointnet.sampling.tiling import Tiling
from jointnet.tasks import denoise as denoising
from jointnet.tasks import predict
from jointnet.tasks.conventions import PAPER, RELEASE, Conventions, resize_lanczos
from jointnet.tasks.denoise import denoise, encode_known
from jointnet.tasks.options import SamplingOptions
from jointnet.tasks.refine import enlarged
from jointnet.tasks.task import Task, all_asked, holes, noised
from jointnet.types import Known
from tests.conftest import tiny_pipeline

KINDS = ["blending", "masked input", "independent timesteps", "both"]


def pipeline_of(kind: str, modalities: tuple[str, ...] = ("rgb", "depth")) -> JointNetPipeline:
    pipeline = tiny_pipeline(modalities)
    if kind in ("masked input", "both"):
        torch.manual_seed(3)
        pipeline.joint_unet.add_masked_input()
        with torch.no_grad():
            for parameter in pipeline.joint_unet.masked_inputs.parameters():
                parameter.normal_(0, 0.1)
    if kind in ("independent timesteps", "both"):
        pipeline.joint_unet.register_to_config(has_independent_timesteps=True)
    return pipeline


def options(seed: int = 0, **more: Any) -> dict[str, Any]:
    return {"num_inference_steps": 3, "generator": torch.Generator().manual_seed(seed), "output_type": "pt", **more}


def picture(height: int = 40, width: int = 57, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def depth(height: int = 40, width: int = 57) -> Tensor:
    return torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(2))


def hole(height: int = 40, width: int = 57) -> Tensor:
    mask = torch.zeros(1, 1, height, width)
    mask[..., 10:25, 20:50] = 1
    return mask


def tilings_seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[LatentCodec, Tiling | None]]:
    """The codec and the tiles of every run of a task from here on, which goes on as it would."""
    seen = []

    def look(model: Any, task: Task, codec: LatentCodec, conditioning: Any, options: Any, scale: float, tiling: Tiling | None) -> Tensor:
        seen.append((codec, tiling))
        return denoise(model, task, codec, conditioning, options, scale, tiling)

    monkeypatch.setattr(denoising, "denoise", look)
    return seen


def tiling_of(pipeline: JointNetPipeline, task: Task, **options: Any) -> Tiling | None:
    return pipeline.joint_model().tiling(SamplingOptions(**options), task.size)


@pytest.fixture(params=KINDS)
def any_pipeline(request: pytest.FixtureRequest) -> JointNetPipeline:
    return pipeline_of(request.param)


def test_predict_keeps_the_picture_and_returns_its_size(any_pipeline: JointNetPipeline) -> None:
    output = any_pipeline.predict(picture(), **options())
    assert torch.equal(output.images, picture())
    assert output.depth.shape == (1, 1, 40, 57)
    assert torch.isfinite(output.depth).all()
    other = any_pipeline.predict(picture().flip(-1), **options())
    assert not torch.equal(output.depth, other.depth)


def test_condition_keeps_the_depth(any_pipeline: JointNetPipeline) -> None:
    output = any_pipeline.condition("a red ball", dense={"depth": depth()}, **options())
    assert torch.equal(output.depth, depth())
    assert output.images.shape == (1, 3, 40, 57)


@pytest.mark.parametrize("tiled", [False, True])
def test_edit_keeps_known_pixels_exactly_and_changes_the_holes(any_pipeline: JointNetPipeline, tiled: bool) -> None:
    output = any_pipeline.edit(picture(), {"depth": depth()}, hole(), "a box", **options(tiled=tiled))
    for made, given in ((output.images, picture()), (output.depth, depth())):
        known = (hole() < 0.5).expand_as(given)
        assert torch.equal(made[known], given[known])
        assert not torch.isclose(made[~known], given[~known]).all()


def test_masks_of_image_and_depth_may_differ(any_pipeline: JointNetPipeline) -> None:
    output = any_pipeline.edit(picture(), {"depth": depth()}, {"depth": hole()}, **options())
    assert torch.equal(output.images, picture())
    assert not torch.allclose(output.depth, depth())


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_in_the_hole_does_not_matter_at_full_strength(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents where something is asked are never read: changed there (the encoder would spread a change of pixels), all stays the same."""

    def edited(content: float) -> Tensor:
        def encode(*arguments: Any) -> Known:
            known = encode_known(*arguments)
            return Known(known.latents + content * known.asked, known.asked)

        monkeypatch.setattr(denoising, "encode_known", encode)
        return pipeline_of(kind).edit(picture(32, 32), {"depth": depth(32, 32)}, hole(32, 32), **options()).depth

    assert torch.equal(edited(0.0), edited(3.0))


def test_all_white_masks_generate() -> None:
    for kind in KINDS:
        pipeline = pipeline_of(kind)
        white = torch.ones(1, 1, 32, 32)
        edited = pipeline.edit(picture(32, 32), {"depth": depth(32, 32)}, white, "a box", **options())
        assert torch.equal(edited.depth, pipeline("a box", **options()).depth)


def test_less_strength_stays_nearer_and_none_changes_nothing() -> None:
    pipeline = pipeline_of("blending")
    given = picture(32, 32)

    def distance(strength: float) -> float:
        made = pipeline.edit(
            given, {"depth": depth(32, 32)}, torch.ones(1, 1, 32, 32), strength=strength, **options(num_inference_steps=10)
        )
        return float((made.images - given).abs().mean())

    assert distance(0.0) == 0
    assert distance(0.1) < distance(1.0)


def test_refine_touches_only_what_it_is_asked_to(any_pipeline: JointNetPipeline) -> None:
    output = any_pipeline.refine(picture(), {"depth": depth()}, only=["depth"], **options())
    assert torch.equal(output.images, picture())
    assert not torch.allclose(output.depth, depth())
    output = any_pipeline.refine(picture(), {"depth": depth()}, only=["rgb"], **options())
    assert torch.equal(output.depth, depth())
    assert not torch.allclose(output.images, picture())


def test_what_is_larger_than_the_model_is_refined_in_its_tiles_alone() -> None:
    pipeline, sizes = pipeline_of("blending"), set()
    pipeline.joint_unet.register_forward_pre_hook(lambda _, args: sizes.add(tuple(args[0].shape[-2:])))
    side, window = 2 * pipeline.default_size, pipeline.unet.config.sample_size
    pipeline.refine(picture(side, side), {"depth": depth(side, side)}, **options())
    assert sizes == {(window, window)}
    pipeline.refine(picture(side, side), {"depth": depth(side, side)}, **options(tiled=False, processing_size=side))
    assert (2 * window, 2 * window) in sizes


@pytest.mark.parametrize("conventions", [PAPER, RELEASE])
def test_refinement_follows_its_conventions(conventions: Conventions, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, is_release = tilings_seen(monkeypatch), conventions is RELEASE
    given = picture(32, 32)
    pipeline_of("blending").refine(given, {"depth": depth(32, 32)}, scale=2, **options(conventions=conventions))
    tiling = seen[0][1]
    assert tiling is not None
    assert (tiling.decays_everywhere, tiling.has_random_offset, tiling.whole_share) == (is_release, not is_release, 0)
    by_lanczos, bicubic = resize_lanczos(given, (64, 64)), resize_picture(given, (64, 64))
    larger = enlarged({"rgb": given}, 2, conventions)["rgb"]
    assert torch.equal(larger, by_lanczos if is_release else bicubic)
    assert not torch.allclose(by_lanczos, bicubic, atol=1e-3)


@pytest.mark.parametrize("conventions", [PAPER, RELEASE])
def test_a_latent_pixel_is_asked_if_any_or_if_the_nearest_of_its_pixels_is(conventions: Conventions) -> None:
    pipeline = pipeline_of("masked input")
    one = torch.zeros(1, 1, 32, 32)
    one[..., 5, 7] = 1  # 2 x 2 pixels a latent: the nearest of latent pixel (2, 3) is pixel (4, 6)
    task = holes({"rgb": picture(32, 32)}, {"rgb": one > 0.5})
    known = encode_known(pipeline.joint_model(), task, pipeline.codec, 1, SamplingOptions(conventions=conventions))
    asked = [tuple(where) for where in known.asked[0, 0, 0].nonzero().tolist()]
    assert asked == ([] if conventions is RELEASE else [(2, 3)])


def test_refine_enlarges(any_pipeline: JointNetPipeline) -> None:
    output = any_pipeline.refine(picture(32, 32), {"depth": depth(32, 32)}, scale=2, **options())
    assert output.images.shape == (1, 3, 64, 64)
    assert output.depth.shape == (1, 1, 64, 64)


@pytest.mark.parametrize("span", [180, 360])
def test_a_seed_reproduces_a_panorama(span: int) -> None:
    pipeline = pipeline_of("blending")
    first, again, other = (pipeline.panorama("grass", height=32, width=128, span_deg=span, **options(seed)).depth for seed in (4, 4, 5))
    assert first.shape == (1, 1, 32, 128)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_a_panorama_is_painted_around_a_photo(any_pipeline: JointNetPipeline) -> None:
    output = any_pipeline.panorama("grass", height=32, width=128, image=picture(), image_fov_deg=50, **options())
    from jointnet.geometry.projection import Cylindrical
    from jointnet.geometry.warp import place_photo

    canvas, known = place_photo(picture(), 50, Cylindrical(180), 180, (32, 128))
    inside = (known > 0.5).expand_as(canvas)
    assert inside.any()
    assert torch.equal(output.images[inside], canvas[inside])
    assert output.depth.shape == (1, 1, 32, 128)


def test_a_photos_depth_is_what_is_predicted_of_the_photo_alone(any_pipeline: JointNetPipeline) -> None:
    from jointnet.geometry.projection import Cylindrical
    from jointnet.geometry.warp import place_disparity, place_photo

    alone = any_pipeline.predict(picture(), **options(4)).depth.clamp(0, 1)
    output = any_pipeline.panorama("grass", height=32, width=128, image=picture(), image_fov_deg=50, **options(4))
    _, known = place_photo(picture(), 50, Cylindrical(180), 180, (32, 128))
    wanted = place_disparity(alone, 50, Cylindrical(180), 180, (32, 128))
    assert torch.equal(output.depth[known > 0.5], wanted[known > 0.5])


@pytest.mark.parametrize("span", [180, 360])
def test_both_passes_of_a_panorama_wrap_at_360_degrees_and_only_then(span: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tilings_seen(monkeypatch)
    output = pipeline_of("blending").panorama("grass", height=32, width=64, span_deg=span, scale=2, **options())
    assert output.images.shape == (1, 3, 64, 128)
    assert [tiling.whole_share for _, tiling in seen if tiling] == [0.4, 0.0]
    for codec, tiling in seen:
        assert tiling is not None
        assert codec.tiles is not None
        assert tiling.wraps == codec.tiles.wraps == (span == 360)


def test_the_second_pass_of_a_panorama_changes_what_the_first_one_made() -> None:
    pipeline, size = pipeline_of("blending"), {"height": 32, "width": 64}
    small = pipeline.panorama("grass", **size, **options())
    large = pipeline.panorama("grass", **size, scale=2, **options())
    assert not torch.allclose(large.depth, enlarged(small.dense, 2)["depth"], atol=1e-3)


def test_by_default_a_panorama_is_four_times_as_wide_as_the_model_and_refinement_goes_back_by_0_4(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = pipeline_of("blending")
    assert pipeline.panorama("grass", **options()).depth.shape == (1, 1, 32, 128)
    shown: list[int] = []

    def look(pipe: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        shown.append(step)
        return {}

    pipeline.refine(picture(32, 32), {"depth": depth(32, 32)}, **options(num_inference_steps=10, callback_on_step_end=look))
    assert len(shown) == 4


def test_an_ensemble_gives_uncertainty(any_pipeline: JointNetPipeline) -> None:
    output = any_pipeline.predict(picture(), ensemble=3, **options())
    assert output.depth.shape == output.uncertainty["depth"].shape == (1, 1, 40, 57)
    assert output.uncertainty["depth"].min() >= 0
    assert output.uncertainty["depth"].max() > 0
    assert list(output.uncertainty) == ["depth"]


def test_an_ensemble_is_the_merger_of_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, generator = pipeline_of("both"), torch.Generator().manual_seed(0)
    samples = [pipeline.predict(picture(32, 32), **options(generator=generator)).depth[0] for _ in range(3)]
    monkeypatch.setattr(predict, "ENSEMBLE_BATCH", 1)
    output = pipeline.predict(picture(32, 32), ensemble=3, **options())
    merged, uncertainty = get_modality("depth").merge(torch.stack(samples))
    assert torch.allclose(output.depth[0], merged, atol=1e-4)
    assert torch.allclose(output.uncertainty["depth"][0], uncertainty, atol=1e-4)


def test_a_batch_of_pictures_equals_its_single_pictures(any_pipeline: JointNetPipeline) -> None:
    both = any_pipeline.predict(picture(batch=2), **options(generator=[torch.Generator().manual_seed(s) for s in (5, 6)]))
    for i in range(2):
        alone = any_pipeline.predict(picture(batch=2)[i : i + 1], **options(generator=[torch.Generator().manual_seed(5 + i)]))
        assert torch.allclose(both.depth[i], alone.depth[0], atol=1e-4)


def test_a_batch_with_different_masks_equals_its_single_pictures(any_pipeline: JointNetPipeline) -> None:
    pictures, maps = picture(32, 32, batch=2), depth(32, 32).expand(2, -1, -1, -1)
    masks = {"rgb": torch.stack([torch.zeros(1, 32, 32), hole(32, 32)[0]]), "depth": torch.ones(2, 1, 32, 32)}
    generators = [torch.Generator().manual_seed(s) for s in (4, 5)]
    together = any_pipeline.edit(pictures, {"depth": maps}, masks, **options(generator=generators))
    for row, seed in enumerate((4, 5)):
        one = {name: mask[row : row + 1] for name, mask in masks.items()}
        alone = any_pipeline.edit(pictures[row : row + 1], {"depth": maps[:1]}, one, **options(seed))
        torch.testing.assert_close(together.images[row], alone.images[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(together.depth[row], alone.depth[0], rtol=0, atol=1e-4)


def test_a_tile_inside_what_is_known_is_shown_clean_as_in_training() -> None:
    pipeline = pipeline_of("both")
    seen: list[tuple[Tensor, Tensor]] = []

    def look(_: Any, arguments: tuple[Any, ...], told: dict[str, Any]) -> None:
        seen.extend(zip(arguments[1], ~told["known"].asked.flatten(2).any(2), strict=True))

    pipeline.joint_unet.register_forward_pre_hook(look, with_kwargs=True)
    mask = torch.zeros(1, 1, 32, 128)
    mask[..., 100:] = 1
    pipeline.edit(picture(32, 128), {"depth": depth(32, 128)}, {"rgb": mask, "depth": torch.ones_like(mask)}, **options(tiled=True))
    assert {tuple(whole.tolist()) for _, whole in seen} == {(True, False), (False, False)}
    for t, whole in seen:
        assert torch.equal(t == 0, whole)


def test_one_map_serves_several_prompts(any_pipeline: JointNetPipeline) -> None:
    output = any_pipeline.condition(["a red ball", "a blue box"], dense={"depth": depth()}, **options())
    assert output.images.shape == (2, 3, 40, 57)
    assert torch.equal(output.depth[1:], depth())


def test_pictures_arrays_and_tensors_mean_the_same() -> None:
    pipeline = pipeline_of("blending")
    array = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    from PIL import Image

    by_array = pipeline.predict(array, **options()).depth
    assert torch.equal(by_array, pipeline.predict(Image.fromarray(array), **options()).depth)
    assert torch.equal(by_array, pipeline.predict(torch.from_numpy(array).permute(2, 0, 1) / 255, **options()).depth)
    assert torch.equal(by_array, pipeline.predict([array], **options()).depth)


def test_without_a_prompt_there_is_no_guidance() -> None:
    pipeline = pipeline_of("blending")
    pipeline.predict(picture(32, 32), **options())
    assert pipeline.guidance_scale == 1
    pipeline.predict(picture(32, 32), "a box", **options())
    assert pipeline.guidance_scale == 7.5


def test_three_modalities_share_every_task() -> None:
    for kind in KINDS:
        pipeline = pipeline_of(kind, ("rgb", "depth", "normal"))
        output = pipeline.predict(picture(32, 32), **options())
        assert output.normal.shape == (1, 3, 32, 32)
        both = pipeline.condition(dense={"depth": depth(32, 32)}, **options())
        assert torch.equal(both.depth, depth(32, 32))
        assert both.normal.shape == (1, 3, 32, 32)


def normals(height: int = 32, width: int = 32) -> Tensor:
    towards = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(3))
    return towards / towards.norm(dim=1, keepdim=True)


def test_three_modalities_are_edited_refined_and_spread_over_a_panorama() -> None:
    pipeline = pipeline_of("both", ("rgb", "depth", "normal"))
    dense = {"depth": depth(32, 32), "normal": normals()}
    holes = hole(32, 32)
    edited = pipeline.edit(picture(32, 32), dense, {"normal": holes}, **options())
    known = (holes < 0.5).expand_as(edited.normal)
    assert torch.equal(edited.depth, dense["depth"])
    assert torch.equal(edited.normal[known], dense["normal"][known])
    assert not torch.allclose(edited.normal[~known], dense["normal"][~known])
    refined = pipeline.refine(picture(32, 32), dense, only="normal", scale=2, **options())
    assert torch.equal(refined.depth, depth(32, 32).repeat_interleave(2, -1).repeat_interleave(2, -2))
    assert refined.normal.shape == (1, 3, 64, 64)
    merged = pipeline.predict(picture(32, 32), ensemble=3, **options())
    assert merged.uncertainty.keys() == {"depth", "normal"}
    length = merged.normal.norm(dim=1)
    assert torch.isclose(length, length.round(), atol=1e-4).all()  # 1, or 0 where there is no normal
    assert 0.2 < length.mean() <= 1
    for photo in (None, picture()):
        wide = pipeline.panorama("grass", height=32, width=128, image=photo, **options())
        assert wide.normal.shape == (1, 3, 32, 128)
        assert wide.normal.isfinite().all()


def test_time_travel_works_on_models_without_masked_input() -> None:
    pipeline = pipeline_of("blending")
    once, twice = (pipeline.predict(picture(32, 32), **options(num_resamples=n)).depth for n in (1, 2))
    assert not torch.equal(once, twice)


def test_bad_tasks_are_refused() -> None:
    pipeline = pipeline_of("blending")
    with pytest.raises(ShapeError, match="one size for all"):
        pipeline.edit(picture(32, 32), {"depth": depth(32, 40)}, torch.ones(1, 1, 32, 32))
    with pytest.raises(ShapeError, match="one size for all"):
        pipeline.edit(picture(32, 32), {"depth": depth(32, 32)}, torch.ones(1, 1, 16, 32))
    with pytest.raises(ShapeError, match="without a hole"):
        pipeline.edit(picture(32, 32), {"depth": depth(32, 32)}, torch.zeros(1, 1, 32, 32))
    with pytest.raises(ShapeError, match="without a hole"):
        pipeline.edit(picture(32, 32), {}, torch.zeros(1, 1, 32, 32))
    with pytest.raises(RangeError, match="which are for tiles"):
        pipeline.predict(picture(32, 32), tiled=False, wraps=True)
    with pytest.raises(RangeError, match="stride of 64 px"):
        pipeline.predict(picture(32, 32), stride=64)
    with pytest.raises(RangeError, match="stride of 15 px"):
        pipeline.panorama("grass", stride=15)
    with pytest.raises(RangeError, match="batch_size = 0"):
        pipeline.tiling(batch_size=0)
    with pytest.raises(RangeError, match="covers no pixel"):
        pipeline.panorama("grass", height=32, width=128, span_deg=360, image=picture(), image_fov_deg=1)
    with pytest.raises(ShapeError, match="1x9"):
        pipeline.panorama("grass", image=picture(1, 9))
    with pytest.raises(RangeError, match="strength"):
        pipeline.refine(picture(32, 32), {"depth": depth(32, 32)}, strength=1.5)
    with pytest.raises(UnknownNameError, match="normal"):
        pipeline.condition(dense={"normal": torch.zeros(1, 3, 32, 32)})
    with pytest.raises(RangeError, match="span"):
        pipeline.panorama("grass", span_deg=400)
    with pytest.raises(ShapeError, match="processing size"):
        pipeline.predict(picture(), **options(processing_size=33))
    with pytest.raises(RangeError, match="ensemble"):
        pipeline.predict(picture(), ensemble=0)
    with pytest.raises(UnknownNameError, match="to refine"):
        noised({"rgb": picture()}, ["depth"])


def test_a_task_is_what_is_known_and_what_is_asked() -> None:
    assert not all_asked((32, 32)).has_known_pixels
    task = holes({"rgb": picture(), "depth": depth()}, {"rgb": hole() > 0.5})
    assert task.has_known_pixels
    assert task.is_wholly_known("depth")
    assert not task.is_wholly_known("rgb")
    small = task.resized((16, 24))
    assert small.asked["rgb"].dtype == torch.bool
    assert 0 < int(small.asked["rgb"].sum()) < small.asked["rgb"].numel()


def overshooting(pipeline: JointNetPipeline) -> JointNetPipeline:
    """An autoencoder whose maps leave [0, 1], as real ones do."""
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.weight *= 40
    return pipeline


@pytest.mark.parametrize(("strength", "scale"), [(0.5, 1), (0.0, 1), (0.5, 2)])
def test_refining_one_map_leaves_the_others_as_they_were_also_beyond_their_range(strength: float, scale: int) -> None:
    pipeline = overshooting(pipeline_of("both"))
    given = depth(32, 32) * 1.1 - 0.05
    output = pipeline.refine(picture(32, 32), {"depth": given}, only="rgb", **options(strength=strength, scale=scale))
    assert torch.equal(output.depth, given.repeat_interleave(scale, -1).repeat_interleave(scale, -2))


def test_tiles_of_ones_own_wrap_where_it_is_asked_for_and_a_stride_means_tiles() -> None:
    pipeline = pipeline_of("blending")
    wide = all_asked((32, 128))
    assert tiling_of(pipeline, wide, tiled=pipeline.tiling(), wraps=True) == pipeline.tiling(wraps=True)
    assert tiling_of(pipeline, wide, stride=8) == pipeline.tiling(stride=4)
    made = [pipeline.panorama("grass", height=32, width=128, **options(stride=s)).images for s in (16, 8)]
    assert not torch.equal(*made)


def test_made_maps_can_be_given_back() -> None:
    pipeline = overshooting(pipeline_of("blending"))
    wide = pipeline.panorama("grass", height=32, width=64, scale=2, **options())
    assert wide.depth.shape == (1, 1, 64, 128)
    assert wide.depth.max() > 1 or wide.depth.min() < 0
    slightly = depth().clamp(0.2, 1) * 1.05
    given = pipeline.condition(dense={"depth": slightly}, **options())
    assert torch.equal(given.depth, slightly)
    assert torch.equal(given.images, pipeline.condition(dense={"depth": slightly.clamp(0, 1)}, **options()).images)
    with pytest.raises(RangeError, match="scale it"):
        pipeline.condition(dense={"depth": depth() * 30}, **options())


def test_options_no_task_has_are_refused_and_none_means_not_given() -> None:
    pipeline = pipeline_of("blending")
    with pytest.raises(TypeError, match="got tiling; sampling takes num_inference_steps,"):
        pipeline.predict(picture(), **options(tiling=pipeline.tiling()))
    plain = pipeline.predict(picture(), "a box", **options())
    same = pipeline.predict(picture(), "a box", **options(guidance_scale=None, cross_attention_kwargs=None))
    assert torch.equal(plain.depth, same.depth)
    with pytest.raises(ShapeError, match="0x64"):
        pipeline.panorama("grass", height=0, width=64, **options())


def test_tiles_wrap_and_large_pictures_have_no_whole_tile() -> None:
    pipeline = pipeline_of("blending")
    assert pipeline.predict(picture(32, 128), **options(wraps=True)).depth.shape == (1, 1, 32, 128)
    assert tiling_of(pipeline, all_asked((32, 128)), wraps=True) == pipeline.tiling(wraps=True)
    assert tiling_of(pipeline, all_asked((512, 512)), tiled=True, wraps=True) == pipeline.tiling(wraps=True, whole_share=0.0)


def test_small_pictures_are_refined_at_the_models_size() -> None:
    pipeline, seen = pipeline_of("blending"), []
    side = pipeline.default_size

    def look(_pipe: Any, _step: int, _t: Any, held: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(tuple(held["latents"].shape[-2:]))
        return held

    small = side // 2
    made = pipeline.refine(picture(small, small), {"depth": depth(small, small)}, **options(callback_on_step_end=look, strength=0.8))
    assert made.depth.shape == (1, 1, small, small)
    assert set(seen) == {(pipeline.unet.config.sample_size,) * 2}


def test_a_partial_start_needs_every_map() -> None:
    pipeline = pipeline_of("blending")
    with pytest.raises(UnknownNameError, match="no depth to start from"):
        pipeline.refine(picture(), {}, **options())
    with pytest.raises(UnknownNameError, match="a mask for normal"):
        pipeline.edit(picture(), {"depth": depth()}, {"normal": hole()}, **options())
    with pytest.raises(ShapeError, match="2 rgb masks for 1"):
        pipeline.edit(picture(), {"depth": depth()}, {"rgb": hole().repeat(2, 1, 1, 1)}, **options())
    with pytest.raises(RangeError, match="latent"):
        pipeline.predict(picture(), **options(output_type="latent"))
    embeds = torch.zeros(2, 32, 128)
    with pytest.raises(ShapeError, match="3 pictures and 2 prompts"):
        pipeline.predict(picture(batch=3), prompt_embeds=embeds, **options())


@pytest.mark.parametrize("image", [None, picture()])
def test_a_panorama_of_360_degrees_wraps_however_tiles_are_asked_for(image: Tensor | None) -> None:
    pipeline = pipeline_of("blending")
    wanted = pipeline.panorama("grass", height=32, width=128, span_deg=360, image=image, **options()).depth
    for tiled in (True, pipeline.tiling()):
        made = pipeline.panorama("grass", height=32, width=128, span_deg=360, image=image, **options(tiled=tiled)).depth
        assert torch.equal(made, wanted)


def test_the_photo_stays_known_while_a_panorama_is_refined() -> None:
    from jointnet.geometry.projection import Cylindrical
    from jointnet.geometry.warp import place_photo

    output = pipeline_of("masked input").panorama("grass", height=32, width=128, image=picture(), image_fov_deg=50, scale=2, **options())
    canvas, known = place_photo(picture(), 50, Cylindrical(180), 180, (64, 256))
    inside = (known > 0.5).expand_as(canvas)
    assert torch.equal(output.images[inside], canvas[inside])


def test_a_photo_may_cover_the_whole_canvas() -> None:
    output = pipeline_of("blending").panorama(
        "grass", height=32, width=64, span_deg=40, image=picture(64, 64), image_fov_deg=120, **options()
    )
    assert output.depth.shape == (1, 1, 32, 64)


def test_a_negative_prompt_turns_guidance_on() -> None:
    pipeline = pipeline_of("blending")
    pipeline.predict(picture(32, 32), **options(negative_prompt="a box"))
    assert pipeline.guidance_scale == 7.5


def test_a_large_ensemble_is_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = pipeline_of("blending")
    monkeypatch.setattr(predict, "ENSEMBLE_BATCH", 2)
    rows = []
    pipeline.joint_unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    pipeline.predict(picture(32, 32), ensemble=5, **options())
    assert sorted(set(rows)) == [1, 2]


def test_a_batch_with_a_large_ensemble_equals_its_single_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each picture's generator is asked in the same parts, however many pictures there are."""
    pipeline = pipeline_of("blending")
    monkeypatch.setattr(predict, "ENSEMBLE_BATCH", 2)
    pictures = picture(32, 32, batch=2)

    def predicted(given: Tensor, *seeds: int) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return pipeline.predict(given, ensemble=3, **options(generator=generators)).depth

    both = predicted(pictures, 5, 6)
    for i in range(2):
        assert torch.allclose(both[i], predicted(pictures[i : i + 1], 5 + i)[0], atol=1e-4)


@pytest.mark.parametrize("call", ["predict", "panorama", "around a photo"])
def test_an_interrupt_stops_all_passes_of_a_task(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, steps = pipeline_of("blending"), []
    monkeypatch.setattr(predict, "ENSEMBLE_BATCH", 2)

    def stop(pipe: Any, step: int, t: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(step)
        pipe._interrupt = True
        return {}

    if call == "predict":
        pipeline.predict(picture(32, 32), ensemble=6, **options(callback_on_step_end=stop))
    else:
        photo = picture() if call == "around a photo" else None
        made = pipeline.panorama("grass", height=32, width=64, scale=2, image=photo, **options(callback_on_step_end=stop))
        assert made.depth.isfinite().all()
    assert steps == [0]


def test_an_earlier_interrupt_does_not_stop_a_panorama_around_a_photo() -> None:
    pipeline = pipeline_of("blending", ("rgb", "normal"))
    pipeline._interrupt = True
    made = pipeline.panorama("grass", height=32, width=128, image=picture(), **options())
    assert made.normal.abs().max() > 0


def test_a_large_panorama_has_no_whole_tile_and_one_that_does_not_wrap_may_be_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, seen = pipeline_of("blending"), tilings_seen(monkeypatch)
    for height, width in ((32, 128), (64, 512)):
        pipeline.panorama("grass", height=height, width=width, **options(num_inference_steps=1))
    assert [tiling.whole_share for _, tiling in seen if tiling] == [0.4, 0.0]
    pipeline.panorama("grass", height=32, width=64, **options(tiled=False))
    assert seen[-1][1] is None
    with pytest.raises(RangeError, match="tiled=False with wraps"):
        pipeline.panorama("grass", height=32, width=64, span_deg=360, **options(tiled=False))


def test_the_base_may_say_both_sides_of_its_size() -> None:
    pipeline = pipeline_of("blending")
    expected = pipeline.predict(picture(), **options(tiled=True)).depth
    pipeline.unet.register_to_config(sample_size=[16, 16])
    assert pipeline.default_size == 32
    assert torch.equal(pipeline.predict(picture(), **options(tiled=True)).depth, expected)


def test_a_panorama_around_a_photo_takes_batches_and_texts_as_any_other() -> None:
    pipeline = pipeline_of("both")
    wide: dict[str, Any] = {"height": 32, "width": 128, "image": picture(), "image_fov_deg": 50}
    two = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    both = pipeline.panorama(["grass", "a box"], **wide, **options(generator=two))
    assert both.depth.shape == (2, 1, 32, 128)
    for i, prompt in enumerate(["grass", "a box"]):
        alone = pipeline.panorama(prompt, **wide, **options(generator=[torch.Generator().manual_seed(3 + i)]))
        assert torch.allclose(both.depth[i], alone.depth[0], atol=1e-4)
    embeds, negative = pipeline.encode_prompt("grass", negative_prompt="snow")
    told = pipeline.panorama("grass", **wide, **options(negative_prompt="snow", guidance_scale=3.0)).depth
    embedded = options(prompt_embeds=embeds, negative_prompt_embeds=negative, guidance_scale=3.0)
    assert torch.allclose(pipeline.panorama(**wide, **embedded).depth, told, atol=1e-4)


def test_maps_of_other_sizes_are_refused_before_they_are_enlarged() -> None:
    with pytest.raises(ShapeError, match="expected one size for all"):
        pipeline_of("blending").refine(picture(), {"depth": depth(20, 57)}, scale=2, **options())


def test_repeats_of_steps_are_refused_where_nothing_is_known() -> None:
    with pytest.raises(RangeError, match="4 resamples of each step where nothing is known"):
        pipeline_of("blending").refine(picture(), {"depth": depth()}, **options(num_resamples=4))


def test_whether_a_canvas_is_large_is_told_by_the_size_it_is_worked_on_at() -> None:
    pipeline = pipeline_of("blending")
    side = pipeline.default_size
    task = all_asked((side, side))
    for processing_size, share in ((5 * side, 0.0), (2 * side, 0.4)):
        tiles = tiling_of(pipeline, task, tiled=True, processing_size=processing_size)
        assert tiles is not None
        assert tiles.whole_share == share


def test_one_negative_prompt_serves_all_prompts() -> None:
    pipeline = pipeline_of("blending")
    made = [pipeline(["grass", "a box"], negative_prompt=said, **options()).depth for said in ("snow", ["snow"], ["snow", "snow"])]
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


def test_the_releases_panoramas_wrap_at_any_span() -> None:
    pipeline, size = pipeline_of("blending"), {"height": 32, "width": 128}
    made = {span: pipeline.panorama("grass", **size, span_deg=span, **options(conventions=RELEASE)).depth for span in (180, 360)}
    assert torch.equal(made[180], made[360])
    assert not torch.equal(made[180], pipeline.panorama("grass", **size, span_deg=180, **options()).depth)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_guidance_scale_up_to_one_is_the_prompt_alone(scale: float) -> None:
    pipeline = pipeline_of("blending")
    rows = []
    pipeline.joint_unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    made = pipeline("grass", guidance_scale=scale, **options()).depth
    assert set(rows) == {1}
    assert torch.equal(made, pipeline("grass", guidance_scale=1, **options()).depth)
