"""Training runs as functions: each returns its whole configuration; a stage is a change to another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from jointnet.errors import UnknownNameError
from jointnet.training.config import OptimConfig, TrainConfig

Stage = Callable[[], TrainConfig]


def stage1() -> TrainConfig:
    """RGB frozen; dense branch and exchanges trained: the paper's settings (Sec. 3.4), batch 256 = 64 GPUs x 4."""
    return TrainConfig(
        optim=OptimConfig(lr=1e-4, batch_size=256, steps=10_000, warmup_steps=1000, precision="bfloat16"),
        freeze_rgb=True,
        text_drop=0.15,
        noise_offset=0.05,
    )


def stage2() -> TrainConfig:
    """From stage 1's checkpoint: everything trained at a tenth of the rate, half the text dropped (Sec. 3.4)."""
    first = stage1()
    return replace(first, optim=replace(first.optim, lr=first.optim.lr / 10), freeze_rgb=False, text_drop=0.5)


def masked() -> TrainConfig:
    """From stage 1's checkpoint with stage 2's settings, and masked input (Sec. 4.1)."""
    return replace(stage2(), has_masked_input=True)


def independent() -> TrainConfig:
    """From stage 1's checkpoint with stage 2's settings, each modality at a noise level of its own: conditioning without masks."""
    return replace(stage2(), has_independent_timesteps=True)


def tasks() -> TrainConfig:
    """From stage 1's checkpoint with stage 2's settings, both ways to condition: what is wholly known is shown clean, holes are masked."""
    return replace(masked(), has_independent_timesteps=True)


def few_steps() -> TrainConfig:
    """From a finished model: distilled to draw in 1 to 8 steps without guidance (Luo et al., 2023), at the rate of their own code."""
    second = stage2()
    return replace(second, optim=replace(second.optim, lr=8e-6, ema_decay=0.95), text_drop=0.0, noise_offset=0.0, teacher_steps=50)


def one_step() -> TrainConfig:
    """From a model that takes a clean picture: all its maps in one step, trained through the decoder (Martin Garcia et al., 2025)."""
    second = stage2()
    optim = replace(second.optim, lr=3e-5, batch_size=32, steps=20_000, warmup_steps=100)
    return replace(second, optim=optim, text_drop=1.0, noise_offset=0.0, has_independent_timesteps=True, predicts_in_one_step=True)


def sd21_depth(stage: Stage = stage1) -> TrainConfig:
    """A stage of the paper's main run: Stable Diffusion 2.1 and depth, at 512 px (Sec. 3.4)."""
    return replace(stage(), modalities=("rgb", "depth"), size=512)


def sd21_normal(stage: Stage = stage1) -> TrainConfig:
    """The same with normals (Tab. 1, Fig. 11)."""
    return replace(sd21_depth(stage), modalities=("rgb", "normal"))


def if_depth(stage: Stage = stage1) -> TrainConfig:
    """DeepFloyd-IF's first stage and depth (Fig. 11), at the 64 px of that base; its large text encoder reads every caption once."""
    return replace(stage(), modalities=("rgb", "depth"), size=64, caches_text=True)


def sdxl_depth(stage: Stage = stage1) -> TrainConfig:
    """Stable Diffusion XL and depth, at the 1024 px of that base. The paper has no such run: its settings are those of the others."""
    return replace(stage(), modalities=("rgb", "depth"), size=1024)


def demo_stage1() -> TrainConfig:
    """Stage 1 for the demo base: a small network wants a larger rate, a CPU a smaller batch; weights averaged."""
    return replace(
        stage1(),
        optim=OptimConfig(
            lr=6e-4,
            batch_size=64,
            steps=4000,
            warmup_steps=200,
            decay="cosine",
            final_lr_ratio=0.1,
            ema_decay=0.999,
            precision="fastest",
            has_plain_attention=True,
        ),
    )


def demo_stage2() -> TrainConfig:
    """Stage 2 for the demo base, changed from its stage 1 as the paper's is from its own."""
    first = demo_stage1()
    return replace(first, optim=replace(first.optim, lr=first.optim.lr / 10, steps=4000), freeze_rgb=False, text_drop=0.5)


def demo_masked() -> TrainConfig:
    """The masked-input stage for the demo base: zero convolutions to learn in a CPU's time want more than stage 2's rate."""
    second = demo_stage2()
    return replace(second, optim=replace(second.optim, lr=3e-4, steps=6000), has_masked_input=True)


def demo_independent() -> TrainConfig:
    """Independent timesteps for the demo base, at the masked-input stage's rate."""
    return replace(demo_masked(), has_masked_input=False, has_independent_timesteps=True)


def demo_few_steps() -> TrainConfig:
    """The same for the demo models."""
    second = demo_stage2()
    optim = replace(second.optim, lr=1e-4, steps=2000)
    return replace(few_steps(), optim=optim)


def demo_one_step() -> TrainConfig:
    """The same for the demo models."""
    optim = replace(demo_stage2().optim, lr=2e-4, steps=2000)
    return replace(one_step(), optim=optim)


def demo_tasks() -> TrainConfig:
    """Both ways for the demo base, at the rate of each of them."""
    return replace(demo_masked(), has_independent_timesteps=True)


PAPER_RUNS: dict[str, Callable[[Stage], TrainConfig]] = {
    "sd21-depth": sd21_depth,
    "sd21-normal": sd21_normal,
    "if-depth": if_depth,
    "sdxl-depth": sdxl_depth,
}
"""Runs of the paper by base and modality; each has the recipes NAME-stage1, NAME-stage2 and NAME-masked."""

RECIPES: dict[str, Stage] = {
    "stage1": stage1,
    "stage2": stage2,
    "masked": masked,
    "independent": independent,
    "tasks": tasks,
    "few-steps": few_steps,
    "one-step": one_step,
    **{f"{name}-{stage.__name__}": partial(run, stage) for name, run in PAPER_RUNS.items() for stage in (stage1, stage2, masked)},
    "demo-stage1": demo_stage1,
    "demo-stage2": demo_stage2,
    "demo-masked": demo_masked,
    "demo-independent": demo_independent,
    "demo-tasks": demo_tasks,
    "demo-few-steps": demo_few_steps,
    "demo-one-step": demo_one_step,
}


def get_recipe(name: str) -> TrainConfig:
    """The configuration of a recipe by name. Raises: UnknownNameError."""
    if name not in RECIPES:
        raise UnknownNameError(f"got recipe {name!r}; expected one of {', '.join(RECIPES)}")
    return RECIPES[name]()
