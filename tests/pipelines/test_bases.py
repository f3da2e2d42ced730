"""Every architecture, tiny and random, in diffusers' own folder form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline
from diffusers.callbacks import SDXLCFGCutoffCallback
from torch import Tensor, nn

from jointnet.checkpoints.folder import save_half
from jointnet.data.sample import Sample
from jointnet.diffusion.schedule import forward_process
from jointnet.errors import ModelFolderError, RangeError, ShapeError, UnsupportedBaseError
from jointnet.modalities.modality import get_modality
from jointnet.pipelines.joint_net import JointNetPipeline
from jointnet.recipes import independent, masked, stage1, stage2, tasks
from jointnet.sampling.schedulers import step_scheduler, with_fixed_variance
from jointnet.training.config import TrainConfig
from jointnet.training.joint import train_joint
from jointnet.training.joint_feed import JointFeed
from jointnet.training.objective import JointObjective
from jointnet.training.stage import stage_feed, stage_objective
from tests.bases import BASES, assert_same_weights, tiny_base

PROMPT, NEGATIVE = "a red ball", "a blue box"
TASKS = ("generate", "predict", "condition", "edit", "refine", "panorama")
TASK_OF_BASE = dict(zip(BASES, ("predict", "refine", "edit", "panorama", "condition", "generate"), strict=True))
"""The task of each base that the default suite runs; ``make test-slow`` runs all of them."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Saved bases by name, made when they are first asked for."""
    root = tmp_path_factory.mktemp("bases")

    class Folders(dict[str, Path]):
        def __missing__(self, base: str) -> Path:
            tiny_base(base).save_pretrained(root / base)
            self[base] = root / base
            return self[base]

    return Folders()


def extended(folder: Path, modalities: tuple[str, ...] = ("rgb", "depth"), *, trained: bool = True, **kwargs: Any) -> JointNetPipeline:
    """A base's folder with its joint network, whose exchanges are not zero if it counts as trained."""
    pipeline = JointNetPipeline.from_base(folder, modalities, **kwargs)
    pipeline.set_progress_bar_config(disable=True)
    if trained:
        torch.manual_seed(5)
        with torch.no_grad():
            for parameter in pipeline.joint_unet.exchanges.parameters():
                parameter.normal_(0, 0.02)
    return pipeline


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(pipeline: JointNetPipeline, share: float = 1.0, widths: int = 1) -> dict[str, Tensor]:
    """Smooth maps of the pipeline's size times a share, so many times as wide."""
    side = round(pipeline.default_size * share)
    across = torch.linspace(0.1, 0.9, side * widths).expand(1, 1, side, -1)
    down = torch.linspace(0.1, 0.9, side)[:, None].expand(1, 1, -1, side * widths)
    return {"rgb": torch.cat([across, down, 1 - across], 1), "depth": down.contiguous()}


def smaller(pipeline: JointNetPipeline, widths: int = 1) -> dict[str, Any]:
    """What an upscaling base needs besides."""
    return {"low_res": picture(pipeline, 0.25, widths)} if pipeline.joint_unet.config.low_res_channels else {}


def perform(pipeline: JointNetPipeline, task: str, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "num_inference_steps": 2,
        "generator": seeded(),
        "output_type": "pt",
        **smaller(pipeline, widths=2 if task == "panorama" else 1),
        **changes,
    }
    maps = picture(pipeline)
    hole = torch.zeros(1, 1, *maps["rgb"].shape[-2:])
    hole[..., : hole.shape[-1] // 2] = 1
    dense = {"depth": maps["depth"]}
    return {
        "generate": lambda: pipeline(PROMPT, **options),
        "predict": lambda: pipeline.predict(maps["rgb"], **options),
        "condition": lambda: pipeline.condition(PROMPT, dense=dense, **options),
        "edit": lambda: pipeline.edit(maps["rgb"], dense, hole, PROMPT, **options),
        "refine": lambda: pipeline.refine(maps["rgb"], dense, PROMPT, **{**options, "num_inference_steps": 5}),
        "panorama": lambda: pipeline.panorama(PROMPT, width=2 * pipeline.default_size, **options),
    }[task]()


def base_image(base: DiffusionPipeline, name: str, latents: Tensor) -> np.ndarray:
    """What diffusers' own pipeline makes; its pixel bases take no noise, but draw it first from their generator."""
    options: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 5.0, "negative_prompt": NEGATIVE}
    if name.startswith("if"):
        options["generator"] = seeded(7)
    else:
        options["latents"] = latents
    if name == "if-2":
        options["image"] = picture(JointNetPipeline.from_base(base), 0.25)["rgb"] * 2 - 1
        options["noise_level"] = 100
    made = base(PROMPT, **{**options, "output_type": "pt" if name.startswith("if") else "np"}).images
    return (made / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy() if name.startswith("if") else made


@pytest.mark.parametrize(("name", "scale"), [("sd1", 7.5), ("sdxl", 5.0), ("if-1", 7.0), ("if-2", 4.0)])
def test_guidance_is_that_of_the_bases_own_pipeline_by_default(name: str, scale: float) -> None:
    pipeline = JointNetPipeline.from_base(tiny_base(name))
    pipeline.set_progress_bar_config(disable=True)
    perform(pipeline, "generate")
    assert pipeline.config.default_guidance == pipeline.guidance_scale == scale


@pytest.mark.parametrize("name", BASES)
def test_untrained_it_makes_the_bases_images(name: str) -> None:
    base = tiny_base(name)
    if name.startswith("if"):  # without noise in its steps, of which diffusers draws others
        base.scheduler = DPMSolverMultistepScheduler.from_config({**base.scheduler.config, "variance_type": None})
    pipeline = JointNetPipeline.from_base(base)
    pipeline.set_progress_bar_config(disable=True)
    side = pipeline.default_size // pipeline.codec.factor
    channels = pipeline.joint_unet.in_channels
    generator = seeded(7)
    own = torch.randn(1, channels, side, side, generator=generator)
    latents = torch.cat([own, torch.randn(1, channels, side, side, generator=seeded(8))], 1)
    options = {"noise_level": 100, **smaller(pipeline)} if name == "if-2" else {}
    expected = base_image(base, name, own)
    made = pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        num_inference_steps=3,
        guidance_scale=5.0,
        latents=latents,
        generator=generator,
        output_type="np",
        **options,
    ).images
    assert np.abs(made - expected).max() < 1e-4
    assert expected.std() > 0.01


@pytest.mark.parametrize("name", BASES)
def test_prompts_are_encoded_as_the_base_does(name: str) -> None:
    base = tiny_base(name)
    pipeline = JointNetPipeline.from_base(base)
    prompts = [PROMPT, "A blue box on the grass "]
    told = {"num_images_per_prompt": 2, "do_classifier_free_guidance": True, "device": torch.device("cpu")}
    for skip in [{}, {"clip_skip": 1}] if name == "sdxl" else [{}]:
        for negative in (None, [NEGATIVE, "grass"]):
            theirs = base.encode_prompt(prompts, negative_prompt=negative, **told, **skip)
            ours = pipeline.encode_prompt(prompts, negative_prompt=negative, **told, **skip)
            assert len(ours) == len(theirs)
            for a, b in zip(ours, theirs, strict=True):
                assert torch.allclose(a, b.repeat_interleave(len(a) // len(b), 0), atol=1e-6)


def test_clip_skip_takes_earlier_hidden_states_through_the_final_norm(folders: dict[str, Path]) -> None:
    """Not compared with diffusers, which looks for a module that transformers 5.23 no longer has."""
    pipeline = extended(folders["sd2"])
    encoder = pipeline.text_encoder
    ids = pipeline.tokenizer(PROMPT, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        states = encoder(ids, output_hidden_states=True).hidden_states
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        for skip in (0, 1, 2):
            assert torch.allclose(pipeline.encode_prompt(PROMPT, clip_skip=skip)[0], norm(states[-1 - skip]), atol=1e-6)
        assert torch.allclose(pipeline.encode_prompt(PROMPT, clip_skip=0)[0], pipeline.encode_prompt(PROMPT)[0], atol=1e-6)


@pytest.mark.parametrize("name", BASES)
def test_it_is_saved_and_loaded_exactly(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    pipeline = extended(folders[name])
    pipeline.save_pretrained(tmp_path)
    loaded = JointNetPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    for part in (name for name, component in pipeline.components.items() if isinstance(component, torch.nn.Module)):
        assert_same_weights(getattr(loaded, part), getattr(pipeline, part))
    ours, theirs = perform(pipeline, "generate"), perform(loaded, "generate")
    assert torch.allclose(ours.images, theirs.images, atol=1e-4)
    assert torch.allclose(ours.depth, theirs.depth, atol=1e-4)
    assert ours.depth.isfinite().all()


def all_tasks() -> Iterator[Any]:
    for name in BASES:
        for task in TASKS:
            yield pytest.param(name, task, marks=() if TASK_OF_BASE[name] == task else pytest.mark.slow)


@pytest.mark.parametrize(("name", "task"), list(all_tasks()))
def test_every_task_runs_on_every_base(name: str, task: str, folders: dict[str, Path]) -> None:
    for with_masks in (False, True):
        pipeline = extended(folders[name])
        if with_masks:
            pipeline.joint_unet.add_masked_input()
        output = perform(pipeline, task)
        width = 2 * pipeline.default_size if task == "panorama" else pipeline.default_size
        assert output.images.shape == (1, 3, pipeline.default_size, width)
        assert output.depth.shape == (1, 1, pipeline.default_size, width)
        assert output.images.isfinite().all()
        assert output.depth.isfinite().all()
        if task in ("predict", "condition"):
            kept = {"predict": ("images", "rgb"), "condition": ("depth", "depth")}[task]
            assert torch.equal(getattr(output, kept[0]), picture(pipeline)[kept[1]])


class OnePicture:
    """A source of one smooth picture, four times; the last time without a prompt."""

    depth_near_m = None

    def __init__(self, pipeline: JointNetPipeline, tall: int = 1) -> None:
        self.shown = {name: map_.repeat(1, 1, tall, 1) for name, map_ in picture(pipeline).items()}
        self.size = (tall * pipeline.default_size, pipeline.default_size)

    def __len__(self) -> int:
        return 4

    @property
    def blocks(self) -> Sequence[int]:
        return (4,)

    def id_of(self, row: int) -> str:
        return str(row)

    def read(self, row: int, modalities: Sequence[str]) -> Sample:
        maps = {name: self.shown[name][0] for name in modalities}
        return Sample(str(row), maps, ("" if row == 3 else PROMPT,), self.size)

    def contents(self, modalities: Sequence[str]) -> dict[str, str]:
        return {name: name for name in ("captions", *modalities)}


def feed_of(pipeline: JointNetPipeline, config: TrainConfig, folder: Path, tall: int = 1) -> tuple[JointObjective, JointFeed]:
    objective = stage_objective(pipeline, config)
    source = OnePicture(pipeline, tall)
    return objective, stage_feed(pipeline, source, config, objective.rule, folder, known_by={"data": f"one picture, {tall}"})


STAGES = {"stage1": stage1, "stage2": stage2, "masked": masked, "independent": independent, "tasks": tasks}


def all_stages() -> Iterator[Any]:
    for name in BASES:
        for stage in STAGES:
            yield pytest.param(name, stage, marks=() if stage == "stage1" else pytest.mark.slow)


@pytest.mark.parametrize(("name", "stage"), list(all_stages()))
def test_a_step_of_every_stage_trains_every_base(name: str, stage: str, folders: dict[str, Path], tmp_path: Path) -> None:
    pipeline = extended(folders[name])
    before = {k: v.clone() for k, v in pipeline.joint_unet.state_dict().items()}
    config = one_step(STAGES[stage]())
    objective, feed = feed_of(pipeline, config, tmp_path / "latents")
    progress = train_joint(objective, feed, config, tmp_path)
    assert progress.step == 1
    after = pipeline.joint_unet.state_dict()
    moved = {k for k, v in before.items() if not torch.equal(v, after[k])}
    assert all(v.isfinite().all() for v in after.values())
    assert any(k.startswith("branches.depth") for k in moved)
    assert any(k.startswith("exchanges.rgb_to_depth") for k in moved)
    assert any(k.startswith("exchanges.depth_to_rgb") for k in moved)
    assert any(k.startswith("branches.rgb") for k in moved) == (stage != "stage1")
    masked_inputs = [v for k, v in after.items() if k.startswith("masked_inputs")]
    assert bool(masked_inputs) == (stage in ("masked", "tasks"))
    assert all(v.abs().max() > 0 for v in masked_inputs)


def one_step(config: TrainConfig) -> TrainConfig:
    return replace(config, optim=replace(config.optim, batch_size=2, steps=1, warmup_steps=0, precision="float32"))


def test_a_tile_is_told_its_own_size(folders: dict[str, Path]) -> None:
    pipeline = extended(folders["sdxl"])
    told: list[tuple[int, ...]] = []
    pipeline.joint_unet.register_forward_pre_hook(
        lambda _module, _arguments, kwargs: told.append(tuple(kwargs["added_cond_kwargs"]["time_ids"][0].int().tolist())), with_kwargs=True
    )
    side = pipeline.default_size
    pipeline.panorama(PROMPT, width=2 * side, num_inference_steps=3, generator=seeded())
    assert set(told) == {(side, side, 0, 0, side, side), (side, 2 * side, 0, 0, side, 2 * side)}


def test_an_empty_caption_is_no_prompt_in_training_too(folders: dict[str, Path], tmp_path: Path) -> None:
    pipeline = extended(folders["sdxl"])
    _, feed = feed_of(pipeline, replace(stage1(), text_drop=0.0), tmp_path)
    text = feed.prepare(feed.collate([feed.item(row, seeded()) for row in (3, 1)]), torch.device("cpu")).text
    assert text is not None
    assert text.embeds[0].abs().max() == text.added["text_embeds"][0].abs().max() == 0
    assert text.embeds[1].abs().max() > 0


def test_no_prompt_is_zeros_in_sampling_where_the_base_says_so(folders: dict[str, Path]) -> None:
    pipeline = extended(folders["sdxl"])
    assert pipeline.config.force_zeros_for_empty_prompt
    texts: list[Tensor] = []
    pipeline.joint_unet.register_forward_pre_hook(
        lambda _module, arguments, told: texts.extend([arguments[2], told["added_cond_kwargs"]["text_embeds"]]), with_kwargs=True
    )
    for prompt in ("", PROMPT):
        texts.clear()
        pipeline(prompt, guidance_scale=1, num_inference_steps=1)
        assert [bool((text == 0).all()) for text in texts] == [not prompt] * 2


def test_training_tells_sizes_and_crops_of_the_data(folders: dict[str, Path], tmp_path: Path) -> None:
    pipeline = extended(folders["sdxl"])
    side = pipeline.default_size
    config = replace(stage1(), text_drop=1.0, crop="random", caches_latents=False)
    _, feed = feed_of(pipeline, config, tmp_path, tall=2)
    items = [feed.item(row, seeded(row)) for row in (0, 1)]
    text = feed.prepare(feed.collate(items), torch.device("cpu")).text
    assert text is not None
    ids = text.added["time_ids"].int().tolist()
    assert [[*row[:2], *row[3:]] for row in ids] == [[2 * side, side, 0, side, side]] * 2
    assert 0 <= ids[0][2] <= side
    _, cached = feed_of(pipeline, replace(stage1(), text_drop=1.0), tmp_path, tall=2)
    text = cached.prepare(cached.collate([cached.item(row, seeded()) for row in (0, 1)]), torch.device("cpu")).text
    assert text is not None
    assert text.added["time_ids"].tolist() == [[2 * side, side, side // 2, 0, side, side]] * 2
    assert text.embeds.abs().max() == 0  # force_zeros_for_empty_prompt: a dropped prompt is what guidance starts from
    assert text.added["text_embeds"].abs().max() == 0


def test_the_tokenizer_of_a_published_deepfloyd_folder_is_read(folders: dict[str, Path], tmp_path: Path) -> None:
    """It holds spiece.model, and no tokenizer.json."""
    folder = tmp_path / "if"
    shutil.copytree(folders["if-1"], folder)
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    (tmp_path / "text.txt").write_text("a red ball on the grass\na blue box behind a ball\n" * 20)
    options = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "hard_vocab_limit": False, "minloglevel": 2}
    prefix = str(folder / "tokenizer" / "spiece")
    sentencepiece.SentencePieceTrainer.train(input=str(tmp_path / "text.txt"), model_prefix=prefix, vocab_size=30, **options)
    (folder / "tokenizer" / "spiece.vocab").unlink()
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = extended(folder).tokenizer
    read = sentencepiece.SentencePieceProcessor(f"{prefix}.model")
    assert tokenizer("a red ball").input_ids == [*read.encode("a red ball"), read.eos_id()]


def test_an_upscaling_base_needs_smaller_maps_and_takes_its_first_stages_output(folders: dict[str, Path]) -> None:
    first, second = extended(folders["if-1"]), extended(folders["if-2"])
    with pytest.raises(ShapeError, match="no smaller rgb; pass low_res"):
        second(PROMPT, num_inference_steps=1)
    with pytest.raises(RangeError, match="noise level of 1000"):
        perform(second, "generate", noise_level=1000)
    with pytest.raises(ShapeError, match="does not upscale"):
        first(PROMPT, num_inference_steps=1, low_res=picture(first))
    small = first(PROMPT, num_inference_steps=2, generator=seeded())
    two = {name: maps.repeat(2, 1, 1, 1) for name, maps in picture(second, 0.25).items()}
    with pytest.raises(ShapeError, match="2 smaller rgb maps for 1 pictures"):
        second(PROMPT, low_res=two, num_inference_steps=1)
    large = second(PROMPT, low_res=small, num_inference_steps=2, generator=seeded(), output_type="pt")
    assert large.depth.shape == (1, 1, 64, 64)
    other = second(PROMPT, low_res=picture(second, 0.25), num_inference_steps=2, generator=seeded(), output_type="pt")
    assert not torch.equal(large.depth, other.depth)
    with pytest.raises(ShapeError, match="smaller rgb of 16x16 px for 64x128; expected one of the same shape"):
        second(PROMPT, width=128, low_res=picture(second, 0.25), num_inference_steps=1)


def test_what_a_task_of_the_first_stage_returned_is_brought_to_the_smaller_size(folders: dict[str, Path]) -> None:
    second = extended(folders["if-2"])
    large, size = picture(second), (second.default_size // 4,) * 2
    small = {name: get_modality(name).resize(maps, size) for name, maps in large.items()}
    assert torch.equal(perform(second, "generate", low_res=large).depth, perform(second, "generate", low_res=small).depth)


def test_a_known_map_brings_its_own_smaller_version(folders: dict[str, Path]) -> None:
    second = extended(folders["if-2"])
    maps, small = picture(second), picture(second, 0.25)
    own = perform(second, "predict", low_res={"depth": small["depth"]})
    shrunk = get_modality("rgb").resize(maps["rgb"], small["rgb"].shape[-2:])
    assert torch.allclose(own.depth, perform(second, "predict", low_res={**small, "rgb": shrunk}).depth, atol=1e-5)
    assert not torch.allclose(own.depth, perform(second, "predict", low_res={**small, "rgb": 1 - shrunk}).depth, atol=1e-3)


def test_a_scheduler_without_learned_variance_does_on_a_base_that_learns_it(folders: dict[str, Path]) -> None:
    pipeline = extended(folders["if-1"])
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    assert perform(pipeline, "generate").depth.isfinite().all()


def test_sizes_are_multiples_of_what_the_base_needs(folders: dict[str, Path]) -> None:
    multiples = {"sd1": 8, "sdxl": 8, "if-1": 8, "if-2": 16}
    for name, multiple in multiples.items():
        pipeline = extended(folders[name])
        assert pipeline.size_multiple == multiple
        with pytest.raises(ShapeError, match=f"multiples of {multiple}"):
            pipeline(PROMPT, height=pipeline.default_size + multiple // 2)


def test_without_a_text_encoder_prompts_come_as_embeddings(folders: dict[str, Path]) -> None:
    whole = extended(folders["if-1"])
    bare = extended(folders["if-1"], text_encoder=None, tokenizer=None)
    with pytest.raises(ShapeError, match="pass prompt_embeds"):
        perform(bare, "generate")
    positive, negative = whole.encode_prompt(PROMPT)
    options = {"num_inference_steps": 2, "generator": seeded(), "output_type": "pt"}
    embedded = bare(prompt_embeds=positive, negative_prompt_embeds=negative, **options)
    assert torch.equal(embedded.depth, perform(whole, "generate").depth)


def test_a_base_that_reads_pooled_text_asks_for_it(folders: dict[str, Path]) -> None:
    pipeline = extended(folders["sdxl"])
    embeds, negative, pooled, negative_pooled = pipeline.encode_prompt(PROMPT)
    with pytest.raises(ShapeError, match="pass pooled_prompt_embeds too"):
        pipeline(prompt_embeds=embeds, negative_prompt_embeds=negative)
    options = {"num_inference_steps": 2, "generator": seeded(), "output_type": "pt"}
    pairs = {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
    pooled_pairs = {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": negative_pooled}
    assert torch.equal(pipeline(**pairs, **pooled_pairs, **options).depth, perform(pipeline, "generate").depth)


def test_other_pipelines_are_refused_by_name(folders: dict[str, Path], tmp_path: Path) -> None:
    base = DiffusionPipeline.from_pretrained(folders["sd1"])
    image_to_image = StableDiffusionImg2ImgPipeline(**base.components, requires_safety_checker=False)
    with pytest.raises(UnsupportedBaseError, match="got a StableDiffusionImg2ImgPipeline; expected one of StableDiffusionPipeline"):
        JointNetPipeline.from_base(image_to_image)
    with pytest.raises(ModelFolderError, match="cannot open the base"):
        JointNetPipeline.from_base(tmp_path / "nothing", local_files_only=True)


def test_weights_saved_in_half_come_back_in_one_type(folders: dict[str, Path], tmp_path: Path) -> None:
    pipeline = extended(folders["sdxl"])
    save_half(pipeline, tmp_path / "half")
    loaded = JointNetPipeline.from_pretrained(tmp_path / "half")
    parts = {name: part for name, part in loaded.components.items() if isinstance(part, nn.Module)}
    assert {"text_encoder", "text_encoder_2"} <= set(parts)
    assert {part.dtype for part in parts.values()} == {torch.float32}
    for name, part in parts.items():
        assert_same_weights(part, getattr(pipeline, name))


def test_a_panorama_is_refined_on_an_upscaling_base(folders: dict[str, Path]) -> None:
    pipeline = extended(folders["if-2"])
    made = perform(pipeline, "panorama", scale=2)
    assert made.depth.shape[-1] == 2 * perform(pipeline, "panorama").depth.shape[-1]


def test_a_learned_variance_is_left_out_of_the_loss_and_of_what_a_trained_model_samples_with(folders: dict[str, Path]) -> None:
    pipeline = extended(folders["if-1"])
    objective = JointObjective(pipeline.joint_unet, forward_process(pipeline.scheduler))
    x0 = torch.randn(2, 2, 3, 16, 16, generator=seeded())
    text = pipeline.training_text()[1]
    text = text.take(torch.zeros(2, dtype=torch.long))
    objective(x0, text, objective.draw(x0, seeded()))["loss"].backward()
    for name in pipeline.modalities:
        gradient = pipeline.joint_unet.branch(name).conv_out.weight.grad
        assert gradient[:3].abs().max() > 0
        assert gradient[3:].abs().max() == 0
    fixed = with_fixed_variance(pipeline.scheduler)
    assert type(fixed) is type(pipeline.scheduler)
    assert fixed.config.variance_type == "fixed_small"
    assert {**fixed.config, "variance_type": ""} == {**pipeline.scheduler.config, "variance_type": ""}
    plain = extended(folders["sd1"]).scheduler
    assert with_fixed_variance(plain) is plain


def test_a_learned_variance_steps_as_in_diffusers() -> None:
    """With guidance, thresholding and the base's own DDPM: every row of the state as the scheduler steps it alone."""
    scheduler = tiny_base("if-1").scheduler
    assert scheduler.config.variance_type == "learned_range"
    x, prediction = torch.randn(2, 2, 3, 8, 8, generator=seeded()), torch.randn(2, 2, 6, 8, 8, generator=seeded(1))
    scheduler.set_timesteps(5)
    t = scheduler.timesteps[1]
    ours = step_scheduler(scheduler, prediction, t, x, generator=seeded(2))
    theirs = scheduler.step(prediction.flatten(0, 1), t, x.flatten(0, 1), generator=seeded(2)).prev_sample
    assert torch.equal(ours.flatten(0, 1), theirs)
    other = step_scheduler(scheduler, torch.cat([prediction[:, :, :3], -prediction[:, :, 3:]], 2), t, x, generator=seeded(2))
    assert not torch.allclose(ours, other)


def test_diffusers_own_callback_for_sdxl_ends_guidance(folders: dict[str, Path]) -> None:
    pipeline = extended(folders["sdxl"])
    guided = perform(pipeline, "generate", num_inference_steps=3).depth
    cut = perform(
        pipeline, "generate", num_inference_steps=3, callback_on_step_end=SDXLCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0)
    ).depth
    assert not torch.equal(cut, guided)
    never = perform(
        pipeline,
        "generate",
        num_inference_steps=3,
        callback_on_step_end=SDXLCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=99),
    ).depth
    assert torch.equal(never, guided)


def test_a_callback_that_names_unknown_tensors_is_refused_before_a_step_is_made(folders: dict[str, Path]) -> None:
    pipeline, calls = extended(folders["sd1"]), []

    class Strange:
        tensor_inputs = ("latents", "weather")

        def __call__(self, *arguments: Any) -> dict[str, Tensor]:
            calls.append(arguments)
            return {}

    for task in ("generate", "predict"):
        with pytest.raises(RangeError, match="weather"):
            perform(pipeline, task, callback_on_step_end=Strange())
    assert calls == []
