"""What people do with diffusers' pipelines works with this one."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import peft
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, SequentialHook
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.schedulers import KarrasDiffusionSchedulers
from packaging.version import Version
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor
from transformers.integrations.peft import MIN_PEFT_VERSION

from jointnet.errors import ModelFolderError, RangeError, ShapeError
from jointnet.models.joint_unet import JointUNet
from jointnet.pipelines.joint_net import JointNetPipeline
from jointnet.tasks.options import SamplingOptions
from jointnet.types import Known
from tests.bases import assert_same_weights, tiny_base
from tests.conftest import tiny_pipeline

PROMPT = "a red ball"


def make(pipeline: Any, seed: int = 0, **changes: Any) -> Any:
    options = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(seed), "output_type": "pt", **changes}
    return pipeline(**{"prompt": PROMPT, **options})


def lora_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model's adapter; embeddings are not looked for, since older peft asks the hub about them."""
    return get_peft_model_state_dict(model, save_embedding_layers=False)


def latents() -> Tensor:
    return torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))


def modules_of(pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
    return {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}


def untrained() -> JointNetPipeline:
    """Exchanges zero: RGB is the base's image, whatever is done to the base."""
    pipeline = tiny_pipeline()
    with torch.no_grad():
        for parameter in pipeline.joint_unet.exchanges.parameters():
            parameter.zero_()
    return pipeline


def base_of(pipeline: JointNetPipeline) -> StableDiffusionPipeline:
    """diffusers' own pipeline with the same networks."""
    parts = {name: pipeline.components[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    base = StableDiffusionPipeline(**parts, unet=pipeline.unet, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    base.set_progress_bar_config(disable=True)
    return base


def base_image(pipeline: JointNetPipeline, **changes: Any) -> Tensor:
    return make(base_of(pipeline), latents=latents()[:, :4], height=32, width=32, **changes).images


# Files


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_both_ways_of_loading_keep_every_weight(dtype: torch.dtype, tmp_path: Path) -> None:
    pipeline = tiny_pipeline().to(dtype)
    pipeline.save_pretrained(tmp_path)
    custom = {"custom_pipeline": str(tmp_path / "pipeline.py"), "trust_remote_code": True}
    for loaded in (
        JointNetPipeline.from_pretrained(tmp_path, torch_dtype=dtype),
        DiffusionPipeline.from_pretrained(tmp_path, torch_dtype=dtype, **custom),
    ):
        assert type(loaded).__name__ == "JointNetPipeline"
        loaded.set_progress_bar_config(disable=True)
        for name, part in modules_of(pipeline).items():
            assert_same_weights(getattr(loaded, name), part)
            assert getattr(loaded, name).dtype == dtype
        assert torch.allclose(make(loaded).depth, make(pipeline).depth, atol=1e-4 if dtype == torch.float32 else 2e-2)


def test_the_card_says_what_the_provenance_file_says(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    tiny_pipeline().save_pretrained(first)
    assert "does not say how it was trained" in (first / "README.md").read_text()
    (first / "provenance.json").write_text('{"recipe": "stage1", "steps": 12, "samples_seen": 48, "commit": "abc"}')
    JointNetPipeline.from_pretrained(first).save_pretrained(second)
    card = (second / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers\n")
    assert "- recipe: stage1\n- steps: 12\n- samples seen: 48\n- commit: abc" in card
    assert (second / "provenance.json").read_text() == (first / "provenance.json").read_text()
    tiny_pipeline().save_pretrained(second)  # another model in its place, which says nothing
    assert "does not say how it was trained" in (second / "README.md").read_text()
    assert not (second / "provenance.json").exists()


def test_prompts_are_encoded_alone(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    alone = JointNetPipeline.from_pretrained(tmp_path, joint_unet=None, vae=None, scheduler=None)
    embeds, negative = alone.encode_prompt(PROMPT, negative_prompt="a box")
    with_embeds = make(pipeline, prompt=None, prompt_embeds=embeds, negative_prompt_embeds=negative)
    assert torch.allclose(with_embeds.depth, make(pipeline, negative_prompt="a box").depth, atol=1e-5)


def test_without_an_autoencoder_there_are_latents(pipeline: JointNetPipeline) -> None:
    expected = make(pipeline, output_type="latent", height=32, width=32).images  # two pixels a latent pixel
    pipeline.vae = None
    assert torch.equal(make(pipeline, output_type="latent", height=128, width=128).images, expected)  # eight, as diffusers assumes
    with pytest.raises(ShapeError, match="without an autoencoder; ask for output_type='latent'"):
        make(pipeline)


# Calls


@pytest.mark.filterwarnings("ignore:Should have ta>=t0")  # torchsde, of a time that it has rounded itself
@pytest.mark.parametrize("name", [member.name for member in KarrasDiffusionSchedulers])
def test_every_scheduler_makes_finite_maps(pipeline: JointNetPipeline, name: str) -> None:
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config)
    output = make(pipeline, num_inference_steps=4)
    assert output.images.shape == (1, 3, 32, 32)
    assert output.depth.shape == (1, 1, 32, 32)
    assert output.depth.isfinite().all()
    assert output.images.isfinite().all()


def settings_of(part: nn.Module) -> dict[str, Any]:
    config: Any = part.config
    return config.to_dict() if hasattr(config, "to_dict") else dict(config)


def test_a_call_changes_no_component(pipeline: JointNetPipeline) -> None:
    weights = {name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in modules_of(pipeline).items()}
    settings = {name: settings_of(part) for name, part in modules_of(pipeline).items()}
    scheduler = dict(pipeline.scheduler.config)
    image = make(pipeline).images
    pipeline.predict(image, num_inference_steps=2)
    pipeline.panorama(PROMPT, num_inference_steps=2)
    for name, part in modules_of(pipeline).items():
        assert all(torch.equal(v, weights[name][k]) for k, v in part.state_dict().items())
        assert settings_of(part) == settings[name]
        assert not part.training
    assert dict(pipeline.scheduler.config) == scheduler


def test_arguments_have_diffusers_names_and_defaults() -> None:
    ours = inspect.signature(JointNetPipeline.__call__).parameters
    theirs = inspect.signature(StableDiffusionPipeline.__call__).parameters
    shared = [name for name in theirs if name in ours]
    assert len(shared) >= 20
    by_another_way = {"callback_on_step_end_tensor_inputs", "guidance_scale", "num_inference_steps", "self"}
    for name in set(shared) - by_another_way:
        assert ours[name].default == theirs[name].default, name
    assert SamplingOptions().steps_of(None) == theirs["num_inference_steps"].default  # None: a speed may bring its own
    components = {**tiny_pipeline().components, "joint_unet": JointUNet.from_unet(tiny_pipeline().unet)}
    assert JointNetPipeline(**components).config.default_guidance == theirs["guidance_scale"].default


def test_a_model_has_its_own_default_guidance(pipeline: JointNetPipeline) -> None:
    asked = make(pipeline, guidance_scale=3.0).depth
    pipeline.register_to_config(default_guidance=3.0)
    assert torch.equal(make(pipeline).depth, asked)


def test_the_progress_bar_is_set(pipeline: JointNetPipeline, capfd: pytest.CaptureFixture[str]) -> None:
    pipeline.set_progress_bar_config(disable=True)
    make(pipeline)
    assert capfd.readouterr().err == ""
    pipeline.set_progress_bar_config(disable=False, desc="denoising")
    make(pipeline)
    assert "denoising: 100%" in capfd.readouterr().err


def test_a_safety_checker_blanks_what_it_flags(pipeline: JointNetPipeline) -> None:
    torch.manual_seed(0)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8)).eval()
    pipeline.feature_extractor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pipeline.safety_checker = checker
    with pytest.raises(ModelFolderError, match="without a feature extractor"):
        JointNetPipeline(**{**pipeline.components, "safety_checker": checker, "feature_extractor": None})
    assert make(pipeline, output_type="latent").nsfw_content_detected is None
    for threshold, flagged in ((2.0, False), (-2.0, True)):  # a cosine is always below the one and above the other
        checker.concept_embeds_weights.data.fill_(threshold)
        output = make(pipeline)
        assert output.nsfw_content_detected == [flagged]
        assert bool((output.images == 0).all() and (output.depth == 0).all()) is flagged
        assert make(pipeline, return_dict=False)[-1] == [flagged]


# Memory


needs_cpu_group_offload = pytest.mark.skipif(
    Version(diffusers.__version__) < Version("0.41"), reason="diffusers before 0.41 offloads groups only where there is an accelerator"
)


@needs_cpu_group_offload
def test_group_offload_by_blocks_and_leaves_changes_nothing(tmp_path: Path) -> None:
    expected = make(tiny_pipeline()).depth
    for kind, extra in (("block_level", {"num_blocks_per_group": 1}), ("leaf_level", {})):
        pipeline = tiny_pipeline()
        pipeline.joint_unet.enable_group_offload(
            onload_device=torch.device("cpu"), offload_type=kind, offload_to_disk_path=str(tmp_path / kind), **extra
        )
        groups = list((tmp_path / kind).glob("*.safetensors"))
        assert len(groups) > (2 if kind == "block_level" else 50)  # each branch, and what lies between them
        assert torch.allclose(make(pipeline).depth, expected, atol=1e-4)


@needs_cpu_group_offload
def test_group_offload_of_the_whole_pipeline_changes_nothing(tmp_path: Path) -> None:
    expected = make(tiny_pipeline()).depth
    pipeline = tiny_pipeline()
    pipeline.enable_group_offload(torch.device("cpu"), offload_type="leaf_level", offload_to_disk_path=str(tmp_path))
    assert list(tmp_path.glob("*.safetensors"))
    assert torch.allclose(make(pipeline).depth, expected, atol=1e-4)


@needs_cpu_group_offload
def test_an_autoencoder_that_is_to_be_upcast_runs_as_it_is_where_it_is_offloaded_to_disk(tmp_path: Path) -> None:
    pipeline = tiny_pipeline().to(torch.float16)
    assert pipeline.vae.config.force_upcast
    expected = make(pipeline).depth
    pipeline.enable_group_offload(torch.device("cpu"), offload_type="leaf_level", offload_to_disk_path=str(tmp_path))
    assert torch.allclose(make(pipeline).depth, expected, atol=0.02)
    pipeline = tiny_pipeline().to(torch.float16)
    with torch.no_grad():
        pipeline.vae.decoder.conv_in.weight *= 3e4
    assert make(pipeline).depth.isfinite().all()
    pipeline.vae.enable_layerwise_casting(storage_dtype=torch.float16, compute_dtype=torch.float16)
    with pytest.raises(RangeError, match="load it in bfloat16 or float32"):
        make(pipeline)


def test_sequential_offload_runs_from_weights_that_are_not_there() -> None:
    expected = make(tiny_pipeline()).depth
    pipeline = tiny_pipeline()
    pipeline.enable_sequential_cpu_offload(device="cpu")
    for part in modules_of(pipeline).values():
        for hook in hooks_of(part):
            hook.execution_device = torch.device("cpu")  # the method says "cpu:0", to which accelerate moves no parameter
    assert all(p.device.type == "meta" for p in pipeline.joint_unet.parameters())
    assert torch.allclose(make(pipeline).depth, expected, atol=1e-5)
    pipeline.remove_all_hooks()
    assert all(p.device.type == "cpu" for p in pipeline.joint_unet.parameters())


def hooks_of(part: nn.Module) -> Iterator[AlignDevicesHook]:
    """What moves a component's weights."""
    for module in part.modules():
        hook = getattr(module, "_hf_hook", None)
        for one in hook.hooks if isinstance(hook, SequentialHook) else [hook]:
            if isinstance(one, AlignDevicesHook):
                yield one


def test_model_offload_calls_its_hooks_in_order() -> None:
    pipeline = tiny_pipeline()
    expected = make(pipeline).depth
    pipeline.enable_model_cpu_offload(device="cpu")
    seen: list[str] = []
    for name, part in modules_of(pipeline).items():
        before = part._hf_hook.pre_forward

        def noted(module: nn.Module, *args: Any, _name: str = name, _before: Any = before, **kwargs: Any) -> Any:
            if not seen or seen[-1] != _name:
                seen.append(_name)
            return _before(module, *args, **kwargs)

        part._hf_hook.pre_forward = noted
    assert torch.equal(make(pipeline).depth, expected)
    assert seen == ["text_encoder", "joint_unet", "vae"]


@torch.no_grad()
def test_sliced_attention_and_a_sliced_or_tiled_autoencoder_change_little(pipeline: JointNetPipeline) -> None:
    two = {"prompt": [PROMPT, "a blue box"], "latents": torch.cat([latents(), latents() / 2])}
    expected = make(pipeline, **two).depth
    pipeline.enable_attention_slicing()
    slices = {type(p).__name__ for name in pipeline.modalities for p in pipeline.joint_unet.branch(name).attn_processors.values()}
    assert slices == {"SlicedAttnProcessor"}
    assert torch.allclose(make(pipeline, **two).depth, expected, atol=1e-4)
    pipeline.disable_attention_slicing()
    pipeline.vae.enable_slicing()
    decoded: list[int] = []
    hook = pipeline.vae.decoder.register_forward_pre_hook(lambda _, given: decoded.append(len(given[0])))
    assert torch.allclose(make(pipeline, **two).depth, expected, atol=1e-4)
    hook.remove()
    assert set(decoded) == {1}
    pipeline.vae.enable_tiling()
    pipeline.vae.tile_latent_min_size = expected.shape[-1] // pipeline.codec.factor // 2
    pipeline.vae.tile_sample_min_size = expected.shape[-1] // 2
    tiled = make(pipeline, **two).depth
    assert 1e-4 < (tiled - expected).abs().mean() < 0.1


def test_layerwise_casting_stores_eight_bits(pipeline: JointNetPipeline) -> None:
    expected = make(pipeline).depth
    pipeline.joint_unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    stored = {p.dtype for name, p in pipeline.joint_unet.named_parameters() if "conv1.weight" in name}
    assert stored == {torch.float8_e4m3fn}
    assert (make(pipeline).depth - expected).abs().mean() < 0.1


@torch.no_grad()
@pytest.mark.parametrize(
    ("backend", "masked"),
    [
        ("aot_eager", True),
        pytest.param("aot_eager", False, marks=pytest.mark.slow),
        pytest.param("inductor", True, marks=pytest.mark.slow),
        pytest.param("inductor", False, marks=pytest.mark.slow),
    ],
)
def test_the_network_compiles_as_one_graph(backend: str, masked: bool) -> None:
    network = tiny_pipeline().joint_unet
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, 4, 16, 16, generator=g)
    arguments = (x, torch.tensor([500, 20]), torch.randn(2, 7, 128, generator=g))
    known = None
    if masked:
        known = Known(x, x[:, :, :1] > 0)
        for parameter in network.add_masked_input().masked_inputs.parameters():
            parameter.normal_(0, 0.1)
    expected = network(*arguments, known=known).sample
    torch.compiler.reset()
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    assert torch.allclose(compiled(*arguments, known=known, return_dict=False)[0], expected, atol=1e-4)


# Adapters made for the base


def save_lora(folder: Path) -> None:
    """A LoRA trained for the base, in peft's form, as diffusers saves it."""
    unet = tiny_pipeline().unet
    torch.manual_seed(3)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=lora_weights(unet))


def test_a_lora_of_the_base_acts_on_the_rgb_branch(tmp_path: Path) -> None:
    pipeline = untrained()
    save_lora(tmp_path)
    plain = make(pipeline, latents=latents())
    pipeline.load_lora_weights(tmp_path, adapter_name="style")
    styled = make(pipeline, latents=latents())
    assert (styled.images - plain.images).abs().max() > 1e-3
    assert torch.equal(styled.depth, plain.depth)  # the exchanges are zero, and the dense branch has no adapter

    theirs = base_of(untrained())
    theirs.load_lora_weights(tmp_path)
    expected = make(theirs, latents=latents()[:, :4], height=32, width=32).images
    assert torch.allclose(styled.images, expected, atol=1e-4)
    half = make(theirs, latents=latents()[:, :4], height=32, width=32, cross_attention_kwargs={"scale": 0.5}).images
    assert torch.allclose(make(pipeline, latents=latents(), cross_attention_kwargs={"scale": 0.5}).images, half, atol=1e-4)

    pipeline.set_adapters("style", 0.0)
    assert torch.allclose(make(pipeline, latents=latents()).images, plain.images, atol=1e-5)
    pipeline.set_adapters("style", 1.0)
    pipeline.fuse_lora()
    assert torch.allclose(make(pipeline, latents=latents()).images, styled.images, atol=1e-4)
    pipeline.unfuse_lora()
    pipeline.unload_lora_weights()
    assert torch.allclose(make(pipeline, latents=latents()).images, plain.images, atol=1e-4)


needs_peft_of_transformers = pytest.mark.skipif(
    Version(peft.__version__) < Version(MIN_PEFT_VERSION),
    reason=f"this transformers takes LoRA of text encoders from peft {MIN_PEFT_VERSION} on only, and peft {peft.__version__} is installed",
)


@needs_peft_of_transformers
def test_a_lora_of_the_text_encoder_acts_as_in_the_bases_own_pipeline(tmp_path: Path) -> None:
    encoder = tiny_pipeline().text_encoder
    torch.manual_seed(3)
    encoder.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    StableDiffusionPipeline.save_lora_weights(tmp_path, text_encoder_lora_layers=lora_weights(encoder))
    pipeline, theirs = untrained(), base_of(untrained())
    plain = make(pipeline, latents=latents()).images
    for pipe in (pipeline, theirs):
        pipe.load_lora_weights(tmp_path)
    styled = make(pipeline, latents=latents()).images
    assert (styled - plain).abs().max() > 1e-4
    assert torch.allclose(styled, make(theirs, latents=latents()[:, :4], height=32, width=32).images, atol=1e-4)
    pipeline.unload_lora_weights()
    assert torch.allclose(make(pipeline, latents=latents()).images, plain, atol=1e-4)


def test_freeu_acts_on_the_rgb_branch() -> None:
    pipeline = untrained()
    plain = make(pipeline, latents=latents())
    pipeline.enable_freeu(s1=0.5, s2=0.3, b1=1.4, b2=1.6)
    freed = make(pipeline, latents=latents())
    assert torch.allclose(freed.images, base_image(pipeline), atol=1e-4)
    assert torch.equal(freed.depth, plain.depth)
    pipeline.disable_freeu()
    assert torch.equal(make(pipeline, latents=latents()).images, plain.images)


def test_a_textual_inversion_of_several_vectors_is_read(tmp_path: Path) -> None:
    pipeline = untrained()
    before = pipeline.encode_prompt("a red ball on <moon>")[0]
    save_file({"<moon>": torch.randn(2, 128, generator=torch.Generator().manual_seed(4))}, tmp_path / "moon.safetensors")
    pipeline.load_textual_inversion(tmp_path, weight_name="moon.safetensors", token="<moon>")
    after = pipeline.encode_prompt("a red ball on <moon>")[0]
    assert not torch.allclose(before, after, atol=1e-3)
    theirs = base_of(pipeline).encode_prompt("a red ball on <moon>", torch.device("cpu"), 1, False)[0]
    assert torch.allclose(after, theirs, atol=1e-6)
    assert make(pipeline, prompt="<moon>").depth.isfinite().all()


@needs_peft_of_transformers
def test_a_lora_of_sdxl_acts_on_its_rgb_branch(tmp_path: Path) -> None:
    base = tiny_base("sdxl")
    pipeline = JointNetPipeline.from_base(base)
    pipeline.set_progress_bar_config(disable=True)
    plain = make(pipeline)
    other = tiny_base("sdxl")
    torch.manual_seed(3)
    for part in (other.unet, other.text_encoder_2):
        names = ["to_q", "to_v"] if part is other.unet else ["q_proj", "v_proj"]
        part.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=names, init_lora_weights=False))
    other.save_lora_weights(
        tmp_path,
        unet_lora_layers=lora_weights(other.unet),
        text_encoder_2_lora_layers=lora_weights(other.text_encoder_2),
    )
    pipeline.load_lora_weights(tmp_path)
    styled = make(pipeline)
    assert (styled.images - plain.images).abs().max() > 1e-4
    assert any("lora" in name for name, _ in pipeline.text_encoder_2.named_parameters())
    assert not any("lora" in name for name, _ in pipeline.joint_unet.branch("depth").named_parameters())
    pipeline.unload_lora_weights()
    assert np.allclose(make(pipeline).images, plain.images, atol=1e-4)
