"""Components that are used again, exchanged or read, as with diffusers' pipelines."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.attention_processor import FusedAttnProcessor2_0
from PIL import Image

from jointnet.errors import ShapeError
from jointnet.pipelines.joint_net import MODEL_FACTS, JointNetPipeline
from jointnet.text.prompts import T5PromptEncoder
from tests.bases import BASES, assert_same_weights, tiny_base
from tests.conftest import tiny_pipeline
from tests.pipelines.test_habits import PROMPT, make


def extended(base: str) -> JointNetPipeline:
    pipeline = JointNetPipeline.from_base(tiny_base(base))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def facts(pipeline: JointNetPipeline) -> dict[str, Any]:
    return {name: pipeline.config[name] for name in MODEL_FACTS}


# The same components in another pipeline


@pytest.mark.parametrize("base", BASES)
def test_a_pipeline_of_the_components_is_the_same(base: str) -> None:
    pipeline = extended(base)
    pipeline.register_to_config(depth_near_m=1.5)
    for again in (JointNetPipeline(**pipeline.components), JointNetPipeline.from_pipe(pipeline)):
        assert facts(again) == facts(pipeline)


def test_it_makes_the_same_pictures() -> None:
    pipeline = extended("sdxl")
    again = JointNetPipeline(**pipeline.components)
    again.set_progress_bar_config(disable=True)
    for prompt in (PROMPT, ""):
        assert torch.equal(make(again, prompt=prompt).images, make(pipeline, prompt=prompt).images)
    assert pipeline.config.force_zeros_for_empty_prompt


def test_what_is_asked_for_counts_and_leaves_the_first_pipeline_as_it_is() -> None:
    pipeline = extended("sdxl")
    before = facts(pipeline)
    other = JointNetPipeline(**pipeline.components, default_guidance=3.0, force_zeros_for_empty_prompt=False, depth_near_m=2.0)
    asked = {"depth_near_m": 2.0, "default_guidance": 3.0, "force_zeros_for_empty_prompt": False}
    assert facts(other) == {**before, **asked}
    assert facts(pipeline) == before
    pipeline.register_to_config(default_guidance=4.0)
    assert JointNetPipeline(**pipeline.components).config.default_guidance == 4.0


def test_a_saved_folder_states_one_thing(tmp_path: Any) -> None:
    pipeline = extended("sd1")
    other = JointNetPipeline(**pipeline.components, default_guidance=3.0)
    other.save_pretrained(tmp_path)
    loaded = JointNetPipeline.from_pretrained(tmp_path)
    assert loaded.config.default_guidance == JointNetPipeline(**loaded.components).config.default_guidance == 3.0


# Other components


def test_a_tiny_autoencoder_encodes_for_tasks(pipeline: JointNetPipeline) -> None:
    torch.manual_seed(0)
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)
    ).eval()
    pipeline.vae = tiny
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(pipeline.codec.encode("rgb", picture), tiny.encode(picture * 2 - 1).latents, atol=1e-5)
    assert make(pipeline).depth.isfinite().all()
    out = pipeline.predict(picture, num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(0))
    assert out.depth.shape == (1, 1, 32, 32)
    assert torch.equal(out.images, picture)
    assert JointNetPipeline.from_pipe(pipeline).vae is tiny


def test_a_compiled_t5_is_a_t5() -> None:
    pipeline = extended("if-1")
    expected = pipeline.encode_prompt("A red BALL")
    pipeline.text_encoder = torch.compile(pipeline.text_encoder, backend="eager")
    assert isinstance(pipeline.prompt_encoder, T5PromptEncoder)
    for a, b in zip(pipeline.encode_prompt("A red BALL"), expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_network_is_used_and_saved_as_it_is(pipeline: JointNetPipeline, tmp_path: Any) -> None:
    expected = make(pipeline).depth
    pipeline.joint_unet = torch.compile(pipeline.joint_unet, backend="eager")
    assert torch.allclose(make(pipeline).depth, expected, atol=1e-5)
    pipeline.save_pretrained(tmp_path)
    assert_same_weights(JointNetPipeline.from_pretrained(tmp_path).joint_unet, tiny_pipeline().joint_unet)
    assert facts(JointNetPipeline(**pipeline.components)) == facts(pipeline)


def test_another_unet_is_refused_with_what_to_do(pipeline: JointNetPipeline) -> None:
    with pytest.raises(AttributeError, match=r"pipe\.unet\.compile\(\)"):
        pipeline.unet = torch.compile(pipeline.unet)


def test_hooks_on_the_pipelines_unet_run(pipeline: JointNetPipeline) -> None:
    calls: list[int] = []
    pipeline.unet.register_forward_hook(lambda *_: calls.append(1))
    make(pipeline, num_inference_steps=3)
    assert len(calls) == 2 * 3


def test_projections_of_every_branch_are_fused_and_unfused(pipeline: JointNetPipeline) -> None:
    expected = make(pipeline).depth
    before = {type(p) for p in pipeline.joint_unet.attn_processors.values()}
    pipeline.fuse_qkv_projections()
    assert {type(p) for p in pipeline.joint_unet.attn_processors.values()} == {FusedAttnProcessor2_0}
    assert torch.allclose(make(pipeline).depth, expected, atol=1e-4)
    pipeline.unfuse_qkv_projections()
    assert {type(p) for p in pipeline.joint_unet.attn_processors.values()} == before
    pipeline.unfuse_qkv_projections()
    assert torch.allclose(make(pipeline).depth, expected, atol=1e-4)


# Properties


def test_the_properties_that_people_look_for(pipeline: JointNetPipeline) -> None:
    assert pipeline.vae_scale_factor == 2
    assert isinstance(pipeline.image_processor, VaeImageProcessor)
    assert pipeline.image_processor.config.vae_scale_factor == 2
    assert pipeline.image_processor.preprocess(Image.new("RGB", (33, 32))).shape == (1, 3, 32, 32)
    assert not pipeline.do_classifier_free_guidance
    assert (pipeline.clip_skip, pipeline.cross_attention_kwargs, pipeline.guidance_rescale) == (None, None, 0.0)
    seen: list[Any] = []

    def look(pipe: Any, *_: Any) -> dict[str, Any]:
        seen.append((pipe.do_classifier_free_guidance, pipe.clip_skip, pipe.cross_attention_kwargs, pipe.guidance_rescale))
        return {}

    make(pipeline, clip_skip=1, cross_attention_kwargs={"scale": 0.5}, guidance_rescale=0.3, callback_on_step_end=look)
    assert seen == [(True, 1, {"scale": 0.5}, 0.3)] * 2
    make(pipeline, guidance_scale=1.0, callback_on_step_end=look)
    assert seen[-1] == (False, None, None, 0.0)
    assert set(pipeline.unet.attn_processors) <= {name.removeprefix("branches.rgb.unet.") for name in pipeline.joint_unet.attn_processors}


# Embeddings


def test_the_empty_prompt_has_as_many_tokens_as_the_embeddings(pipeline: JointNetPipeline) -> None:
    limit = pipeline.tokenizer.model_max_length
    whole = pipeline.encode_prompt(PROMPT)[0]
    for length in (1, 8, limit, limit + 5, 2 * limit, 2 * limit + 1):
        embeds = torch.cat([whole] * 3, 1)[:, :length]
        negative = pipeline.encode_prompt(prompt_embeds=embeds)[1]
        assert negative.shape == embeds.shape
        empty = pipeline.encode_prompt("")[0]
        assert torch.allclose(negative[:, :limit], empty[:, :length], atol=1e-5)
        assert torch.allclose(negative[:, limit : 2 * limit], empty[:, : max(0, length - limit)], atol=1e-5)
        assert make(pipeline, prompt=None, prompt_embeds=embeds).depth.isfinite().all()
    words = pipeline.encode_prompt(prompt_embeds=whole[:, :8], negative_prompt="a box")[1]
    assert words.shape == (1, 8, 128)
    assert not torch.allclose(words, pipeline.encode_prompt(prompt_embeds=whole[:, :8])[1], atol=1e-3)


def test_the_empty_prompt_of_the_length_is_diffusers() -> None:
    for name in ("sd1", "sdxl"):
        base, pipeline = tiny_base(name), extended(name)
        texts = pipeline.encode_prompt(PROMPT, negative_prompt="grass")
        options: dict[str, Any] = {"prompt_embeds": texts[0][:, :12], "negative_prompt": "grass"}
        if name == "sdxl":
            options["pooled_prompt_embeds"] = texts[2]
        ours = pipeline.encode_prompt(**options)
        theirs = base.encode_prompt(
            prompt=None, device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=True, **options
        )
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_a_long_prompt_of_a_t5_is_taken_as_it_is() -> None:
    pipeline = extended("if-1")
    embeds = pipeline.encode_prompt(PROMPT)[0].repeat(1, 2, 1)[:, :100]
    negative = pipeline.encode_prompt(prompt_embeds=embeds)[1]
    assert negative.shape == embeds.shape


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            {"prompt_embeds": (1, 12, 128), "negative_prompt_embeds": (1, 32, 128)},
            "negative prompt of 32 x 128 tokens x width for a prompt",
        ),
        ({"prompt_embeds": (1, 32, 128), "negative_prompt_embeds": (1, 32, 64)}, "of 32 x 64 tokens"),
        ({"prompt": PROMPT, "negative_prompt_embeds": (1, 12, 128)}, "of 12 x 128 tokens"),
        ({"prompt": PROMPT, "negative_prompt": "a box", "negative_prompt_embeds": (1, 32, 128)}, "both of negative_prompt and negative"),
        ({"prompt_embeds": (32, 128)}, r"got prompt_embeds of shape \(32, 128\); expected \(B, L, D\)"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(pipeline: JointNetPipeline, shapes: dict[str, Any], message: str) -> None:
    values = {name: torch.zeros(value) if isinstance(value, tuple) else value for name, value in shapes.items()}
    for run in (lambda: make(pipeline, **{"prompt": None, **values}), lambda: pipeline.encode_prompt(**values)):
        with pytest.raises(ShapeError, match=message):
            run()


# Marigold's users


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def test_a_generator_for_each_member_of_an_ensemble(pipeline: JointNetPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    options = {"num_inference_steps": 2, "output_type": "pt"}
    singles = torch.stack([pipeline.predict(picture, generator=g, **options).depth[0] for g in seeds(5, 6, 7)])
    merged: list[torch.Tensor] = []
    monkeypatch.setattr(
        "jointnet.tasks.predict.merge", lambda samples: merged.append(samples["depth"]) or ({"depth": samples["depth"][:, 0]}, {})
    )
    for at_once in (16, 2):
        monkeypatch.setattr("jointnet.tasks.predict.ENSEMBLE_BATCH", at_once)
        pipeline.predict(picture, ensemble=3, generator=seeds(5, 6, 7), **options)
        assert torch.allclose(merged.pop()[0], singles, atol=1e-4)
        pipeline.predict(torch.cat([picture, picture]), ensemble=3, generator=seeds(7, 6, 5, 5, 6, 7), **options)
        both = merged.pop()
        assert torch.allclose(both[0], singles.flip(0), atol=1e-4)
        assert torch.allclose(both[1], singles, atol=1e-4)


def test_the_number_of_generators_is_that_of_pictures_or_samples(pipeline: JointNetPipeline) -> None:
    picture = torch.rand(2, 3, 32, 32)
    with pytest.raises(ShapeError, match=r"got 3 generators for 2 pictures and an ensemble of 4; expected 1, 2 .* or 8"):
        pipeline.predict(picture, ensemble=4, generator=seeds(1, 2, 3), num_inference_steps=1)
    with pytest.raises(ShapeError, match="got 3 generators for 2 pictures; pass one each"):
        pipeline.predict(picture, generator=seeds(1, 2, 3), num_inference_steps=1)


@pytest.mark.parametrize("ensemble", [1, 2])
def test_maps_may_stay_at_the_size_the_network_works_at(pipeline: JointNetPipeline, ensemble: int) -> None:
    picture = Image.new("RGB", (96, 48), "red")
    options = {"num_inference_steps": 2, "output_type": "pt", "ensemble": ensemble}
    matched = pipeline.predict(picture, generator=seeds(0)[0], **options)
    small = pipeline.predict(picture, match_input_resolution=False, generator=seeds(0)[0], **options)
    assert matched.depth.shape[-2:] == matched.images.shape[-2:] == (48, 96)
    assert small.depth.shape[-2:] == small.images.shape[-2:] == (16, 32)
    assert [u.shape[-2:] for u in small.uncertainty.values()] == [(16, 32)] * (ensemble > 1)
    wide = pipeline.predict(picture, match_input_resolution=False, processing_size=64, num_inference_steps=1, output_type="pt")
    assert wide.depth.shape[-2:] == (32, 64)


def test_components_reach_a_pipeline_that_only_encodes_prompts(tmp_path: Any) -> None:
    tiny_pipeline().save_pretrained(tmp_path)
    alone = JointNetPipeline.from_pretrained(tmp_path, joint_unet=None, vae=None)
    assert alone.config.default_guidance == 7.5
