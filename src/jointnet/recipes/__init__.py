"""Training runs as functions: each returns its whole configuration; a stage is a change to another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jointnet.errors import UnknownNameError
from jointnet.training.config import OptimConfig, TrainConfig


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


def demo_tasks() -> TrainConfig:
    """Both ways for the demo base, at the rate of each of them."""
    return replace(demo_masked(), has_independent_timesteps=True)


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "stage1": stage1,
    "stage2": stage2,
    "masked": masked,
    "independent": independent,
    "tasks": tasks,
    "demo-stage1": demo_stage1,
    "demo-stage2": demo_stage2,
    "demo-masked": demo_masked,
    "demo-independent": demo_independent,
    "demo-tasks": demo_tasks,
}


def get_recipe(name: str) -> TrainConfig:
    """The configuration of a recipe by name. Raises: UnknownNameError."""
    if name not in RECIPES:
        raise UnknownNameError(f"got recipe {name!r}; expected one of {', '.join(RECIPES)}")
    return RECIPES[name]()
