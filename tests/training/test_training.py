from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler
from jointnet.training.loss import NoiseLevels, NoiseSchedule, draw_noise, joint_loss
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from jointnet.data.samples import LatentSamples
from jointnet.errors import DivergenceError, RunFolderError, UnsupportedBaseError
from jointnet.models.joint_unet import JointUNet
from jointnet.recipes import RECIPES, demo_stage1, demo_stage2, get_recipe, independent, masked, stage1, stage2, tasks
from jointnet.training.config import OptimConfig
from jointnet.training.joint import draw_shown, keeping_abilities, train_joint
from jointnet.training.loop import batch_indices, fit
from jointnet.training.masks import draw_hole, draw_masks
from jointnet.training.provenance import write_provenance
from jointnet.training.state import Progress
from jointnet.types import PredictionType, Text, size_ids
from tests.bases import tiny_unet

CONFIG = OptimConfig(lr=1e-2, batch_size=4, steps=12, warmup_steps=2, decay="cosine", ema_decay=0.9)


def toy() -> tuple[nn.Linear, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(3, 3), torch.randn(16, 3)


def train_toy(run_dir: Path, steps: int = 12) -> list[Tensor]:
    model, data = toy()

    def loss_fn(indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        x = data[indices] + 0.1 * torch.randn(len(indices), 3, generator=generator)
        return {"loss": (model(x) - 2 * x).square().mean()}

    fit(model, loss_fn, num_samples=16, config=replace(CONFIG, steps=steps), run_dir=run_dir, log_every=4)
    return [p.detach().clone() for p in model.parameters()]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    class Stopped(Exception):
        """Raised where the run is cut."""

    whole = train_toy(tmp_path / "whole")
    model, data = toy()
    calls = 0

    def loss_fn(indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise Stopped
        x = data[indices] + 0.1 * torch.randn(len(indices), 3, generator=generator)
        return {"loss": (model(x) - 2 * x).square().mean()}

    with pytest.raises(Stopped):
        fit(model, loss_fn, num_samples=16, config=CONFIG, run_dir=tmp_path / "cut", save_every_minutes=0)
    assert all(torch.equal(a, b) for a, b in zip(whole, train_toy(tmp_path / "cut"), strict=True))


def test_rows_of_the_curve_are_means_also_after_a_resume(tmp_path: Path) -> None:
    model, data = toy()

    def loss_fn(indices: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": model(data[indices]).square().mean(), "one": torch.ones(())}

    for steps in (6, 12):
        progress = fit(model, loss_fn, num_samples=16, config=replace(CONFIG, steps=steps), run_dir=tmp_path, log_every=4)
    assert [row["one"] for row in progress.curve] == [1, 1, 1]


def test_the_state_of_other_weights_is_refused(tmp_path: Path) -> None:
    train_toy(tmp_path)
    model, data = toy()
    model.bias.requires_grad_(False)
    for config in (CONFIG, replace(CONFIG, ema_decay=None)):
        with pytest.raises(RunFolderError, match="trains other weights"):
            fit(model, lambda i, _: {"loss": model(data[i]).square().mean()}, num_samples=16, config=config, run_dir=tmp_path)
        model.bias.requires_grad_(True)


def test_a_curve_has_at_most_100_rows(tmp_path: Path) -> None:
    progress = Progress(step=199, samples=199, seconds=1.0, curve=[{"step": step, "seconds": 0.0, "lr": 1.0} for step in range(1, 200)])
    write_provenance(tmp_path, "toy", CONFIG, progress)
    assert len(json.loads((tmp_path / "provenance.json").read_text())["loss_curve"]) == 99


def test_a_scheduler_without_betas_is_named() -> None:
    with pytest.raises(UnsupportedBaseError, match="EDMEulerScheduler"):
        NoiseSchedule.of(EDMEulerScheduler())


def test_a_finished_run_is_not_trained_further(tmp_path: Path) -> None:
    first = train_toy(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first, train_toy(tmp_path), strict=True))


def test_the_result_is_the_weight_average(tmp_path: Path) -> None:
    model, data = toy()
    seen = []

    def loss_fn(indices: Tensor, _generator: torch.Generator) -> dict[str, Tensor]:
        seen.append(model.weight.detach().clone())
        return {"loss": (model(data[indices]) - 1).square().mean()}

    fit(model, loss_fn, num_samples=16, config=replace(CONFIG, steps=3, ema_decay=0.05), run_dir=tmp_path)
    after_first, after_second = seen[1], seen[2]
    average = 0.05 * (0.05 * seen[0] + 0.95 * after_first) + 0.95 * after_second
    third = (model.weight - 0.05 * average) / 0.95
    assert not torch.allclose(model.weight, third, atol=1e-5)
    assert (third - after_second).abs().max() < 2 * CONFIG.lr


def test_every_sample_comes_once_an_epoch() -> None:
    steps = [batch_indices(16, 4, step, seed=3) for step in range(8)]
    for epoch in (steps[:4], steps[4:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(16))
    assert not torch.equal(torch.cat(steps[:4]), torch.cat(steps[4:]))


def test_a_budget_ends_the_run(tmp_path: Path) -> None:
    model, data = toy()
    config = replace(CONFIG, steps=10**9)
    progress = fit(
        model,
        lambda i, _: {"loss": model(data[i]).square().mean()},
        num_samples=16,
        config=config,
        run_dir=tmp_path,
        budget_minutes=0.5 / 60,
    )
    assert 0 < progress.step < 10**9
    assert progress.seconds >= 0.5


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    model, data = toy()
    with pytest.raises(DivergenceError, match="step 0"):
        fit(model, lambda i, _: {"loss": model(data[i]).sum() * torch.inf}, num_samples=16, config=CONFIG, run_dir=tmp_path)


def test_the_learning_rate_warms_up_and_decays() -> None:
    config = OptimConfig(lr=1.0, batch_size=1, steps=100, warmup_steps=10, decay="cosine", final_lr_ratio=0.1)
    assert config.lr_at(0.0, 0) == pytest.approx(0.1)
    assert config.lr_at(0.5, 50) == pytest.approx(0.55)
    assert config.lr_at(1.0, 100) == pytest.approx(0.1)


@pytest.mark.parametrize("kind", PredictionType)
def test_targets_follow_the_prediction_type(kind: PredictionType) -> None:
    x0, noise, a = torch.randn(2, 2, 4, 3, 3), torch.randn(2, 2, 4, 3, 3), torch.tensor(0.3)
    x_t = a.sqrt() * x0 + (1 - a).sqrt() * noise
    target = kind.target(x0, noise, a)
    recovered = {
        PredictionType.EPSILON: (x_t - (1 - a).sqrt() * target) / a.sqrt(),
        PredictionType.V: a.sqrt() * x_t - (1 - a).sqrt() * target,
        PredictionType.SAMPLE: target,
    }[kind]
    assert torch.allclose(recovered, x0, atol=1e-5)


SCHEDULE = NoiseSchedule(torch.linspace(0.999, 0.01, 1000), PredictionType.EPSILON)


@torch.no_grad()
def test_the_loss_is_equation_1() -> None:
    """Against Eq. 1 written out for two separate networks: at initialisation the joint network is two copies of the base."""
    joint, base = JointUNet.from_unet(tiny_unet("sd1")), tiny_unet("sd1")
    x0, text = torch.randn(3, 2, 4, 16, 16), Text(torch.randn(3, 7, 32))
    losses = joint_loss(joint, x0, text, SCHEDULE, noise_offset=0.05, generator=torch.Generator().manual_seed(1))

    g = torch.Generator().manual_seed(1)
    t = torch.randint(1000, (3,), generator=g)
    eps = draw_noise(x0, 0.05, g)
    total = 0.0
    for modality in range(2):
        a = SCHEDULE.alpha_bar[t][:, None, None, None]
        noisy = a.sqrt() * x0[:, modality] + (1 - a).sqrt() * eps[:, modality]
        total += (eps[:, modality] - base(noisy, t, text.embeds).sample).square().mean()
    assert losses["loss"] == pytest.approx(float(total), rel=1e-5)
    assert losses["loss"] == pytest.approx(float(losses["rgb"] + losses["depth"]), rel=1e-6)


def test_the_noise_offset_is_drawn_for_each_sample_modality_and_channel() -> None:
    x0 = torch.zeros(400, 2, 4, 32, 32)
    offsets = draw_noise(x0, 1.0, torch.Generator().manual_seed(0)).mean((3, 4))
    assert offsets.std() == pytest.approx(1.0, abs=0.05)
    correlation = torch.corrcoef(offsets.flatten(1).T)
    assert (correlation - torch.eye(8)).abs().max() < 0.2
    assert draw_noise(x0, 0.0, torch.Generator().manual_seed(0)).mean((3, 4)).std() < 0.05


class NumbersAsText:
    """The plainest text encoder: a token's embedding is its number, five a prompt."""

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        numbers = [[len(word) for word in prompt.split()] for prompt in prompts]
        return torch.tensor([[[*row, *[0] * 5][:5]] for row in numbers])

    def encode(self, tokens: Tensor) -> Text:
        return Text(tokens[:, 0, :, None].float().expand(-1, -1, 32))


def samples() -> LatentSamples:
    tokens = torch.arange(2 * 16 * 5).reshape(2, 16, 1, 5) + 1
    sizes = size_ids((128, 128)).expand(16, -1)
    return LatentSamples(torch.randn(16, 2, 4, 16, 16), tokens, sizes, Text(torch.zeros(1, 5, 32)), NumbersAsText())


def test_text_is_dropped_at_its_rate_and_captions_vary() -> None:
    data, g = samples(), torch.Generator().manual_seed(0)
    dropped, draws = [], set()
    for _ in range(100):
        _, text = data.batch(torch.arange(16), 0.15, g)
        ids = text.embeds[:, :, 0]
        dropped.append((ids == 0).all(1).float().mean())
        draws |= {int(i > 16 * 5) for i in ids[:, 0] if i > 0}
    assert torch.stack(dropped).mean() == pytest.approx(0.15, abs=0.03)
    assert draws == {0, 1}


def state_of(joint: JointUNet) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in joint.state_dict().items()}


@pytest.mark.parametrize("frozen", [True, False])
def test_stage_1_keeps_the_rgb_branch_and_stage_2_does_not(frozen: bool, tmp_path: Path) -> None:
    joint = JointUNet.from_unet(tiny_unet("sd1"))
    before = state_of(joint)
    config = replace(stage1() if frozen else stage2(), optim=replace(CONFIG, steps=3, ema_decay=None))
    train_joint(joint, samples(), SCHEDULE, config, tmp_path)
    changed = {k for k, v in joint.state_dict().items() if not torch.equal(v, before[k])}
    assert any(k.startswith("branches.rgb.") for k in changed) != frozen
    assert any(k.startswith("branches.depth.") for k in changed)
    for route in ("rgb_to_depth", "depth_to_rgb"):
        assert any(k.startswith(f"exchanges.{route}.mid") for k in changed)


def test_recipes_follow_the_paper() -> None:
    first, second = stage1(), stage2()
    assert (first.optim.lr, first.optim.steps, first.optim.warmup_steps, first.optim.batch_size) == (1e-4, 10_000, 1000, 256)
    assert (first.text_drop, first.noise_offset, first.freeze_rgb) == (0.15, 0.05, True)
    assert (second.optim.lr, second.text_drop, second.freeze_rgb) == (1e-5, 0.5, False)
    assert demo_stage2().optim.lr == pytest.approx(demo_stage1().optim.lr / 10)
    assert masked() == replace(second, has_masked_input=True)
    assert tasks() == replace(second, has_masked_input=True, has_independent_timesteps=True)
    assert {name: get_recipe(name) for name in RECIPES}


def test_the_mix_of_masks_has_every_kind_at_its_share() -> None:
    masks = draw_masks(4000, 2, (16, 16), torch.Generator().manual_seed(0))  # (B, 2, 1, 16, 16)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    shares = masks.mean((2, 3, 4))
    white, black = shares == 1, shares == 0
    assert abs(float(white.all(1).float().mean()) - 0.2) < 0.03
    for known in (0, 1):
        assert abs(float((black[:, known] & white[:, 1 - known]).float().mean()) - 0.2) < 0.03
    holes = ~(white | black).any(1)
    same = (masks[:, 0] == masks[:, 1]).all(-1).all(-1).all(-1)
    assert 0.1 < float((holes & same).float().mean()) < 0.25
    assert 0.1 < float((holes & ~same).float().mean()) < 0.25
    assert 0.3 < float(masks[holes].mean()) < 0.7


def test_holes_are_boxes_and_strokes() -> None:
    """Of the holes of one piece half are boxes, which fill their bounds; strokes do not."""
    g = torch.Generator().manual_seed(0)
    filled = []
    for _ in range(400):
        hole = draw_hole((32, 32), g)
        rows, columns = (torch.nonzero(hole.any(axis)).flatten() for axis in (1, 0))
        bounds = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        if bounds < 32 * 32:  # not turned inside out
            filled.append(float(hole.sum() / bounds))
    share = np.mean(np.array(filled) == 1)
    assert 0.1 < share < 0.5
    assert np.mean(np.array(filled) < 0.6) > 0.1


def test_with_three_modalities_one_or_two_are_known() -> None:
    masks = draw_masks(600, 3, (8, 8), torch.Generator().manual_seed(0)).mean((2, 3, 4))
    known = (masks == 0).sum(1)[((masks == 0) | (masks == 1)).all(1)]
    assert set(known.tolist()) == {0, 1, 2}


def test_of_a_single_modality_nothing_is_known() -> None:
    masks = draw_masks(200, 1, (8, 8), torch.Generator().manual_seed(0))
    assert masks.shape == (200, 1, 1, 8, 8)
    assert (masks.flatten(1).mean(1) > 0).all()


def test_a_further_stage_keeps_the_ways_to_condition() -> None:
    joint = JointUNet.from_unet(tiny_unet("sd1"))
    assert keeping_abilities(stage2(), joint) == stage2()
    joint.add_masked_input().register_to_config(has_independent_timesteps=True)
    assert keeping_abilities(stage2(), joint) == tasks()
    assert keeping_abilities(independent(), joint) == tasks()


def test_independent_levels_are_a_quarter_shared_and_half_partly_clean() -> None:
    for modalities in (2, 3):
        levels = SCHEDULE.independent_levels(8000, modalities, torch.Generator().manual_seed(0))
        assert (levels.t[levels.clean] == 0).all()
        assert not levels.clean.all(1).any()
        assert abs(float(levels.clean.any(1).float().mean()) - 0.5) < 0.03
        assert abs(float((levels.t == levels.t[:, :1]).all(1).float().mean()) - 0.25) < 0.03


def test_a_clean_modality_is_shown_as_it_is_and_not_in_the_loss() -> None:
    joint = JointUNet.from_unet(tiny_unet("sd1"))
    shown: list[Tensor] = []
    joint.register_forward_pre_hook(lambda _, args: shown.append(args[0]))
    x0 = torch.randn(4, 2, 4, 16, 16)
    levels = NoiseLevels(torch.tensor([[0, 500]] * 4), torch.tensor([[True, False]] * 4))
    g = torch.Generator().manual_seed(0)
    losses = joint_loss(joint, x0, Text(torch.randn(4, 7, 32)), SCHEDULE, noise_offset=0.0, generator=g, levels=levels)
    assert torch.equal(shown[0][:, 0], x0[:, 0])
    assert not torch.isclose(shown[0][:, 1], x0[:, 1]).all()
    assert losses["rgb"] == 0
    assert losses["loss"] == losses["depth"] > 0


def test_with_both_ways_what_is_wholly_known_is_clean_and_the_rest_shares_a_level() -> None:
    x0 = torch.randn(400, 3, 4, 8, 8)
    levels, mask = draw_shown(x0, SCHEDULE, tasks(), torch.Generator().manual_seed(0))
    assert mask is not None
    assert torch.equal(levels.clean, mask.amax((2, 3, 4)) == 0)
    assert 0.2 < float(levels.clean.any(1).float().mean()) < 0.6
    for t, clean in zip(levels.t, levels.clean, strict=True):
        assert (t[clean] == 0).all()
        assert len(t[~clean].unique()) == 1


def test_plain_attention_leaves_the_fused_kernel_and_gives_the_same_losses(tmp_path: Path) -> None:
    losses: dict[bool, list[float]] = {True: [], False: []}
    for plain in (True, False):
        torch.manual_seed(0)
        model = nn.Linear(8, 8)

        def loss_fn(indices: Tensor, generator: torch.Generator, model: nn.Module = model, plain: bool = plain) -> dict[str, Tensor]:
            assert torch.backends.cuda.flash_sdp_enabled() != plain  # the switch holds for every device
            h = model(torch.randn(4, 2, 6, 8, generator=generator))
            loss = scaled_dot_product_attention(h, h, h).square().mean()
            losses[plain].append(float(loss.detach()))
            return {"loss": loss}

        fit(model, loss_fn, num_samples=16, config=replace(CONFIG, steps=3, has_plain_attention=plain), run_dir=tmp_path / str(plain))
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)


@pytest.mark.parametrize("kind", ["has_masked_input", "has_independent_timesteps"])
def test_the_conditional_stages_train_and_say_so(kind: str, tmp_path: Path) -> None:
    joint = JointUNet.from_unet(tiny_unet("sd1"))
    config = replace(masked() if kind == "has_masked_input" else independent(), optim=replace(CONFIG, steps=2))
    train_joint(joint, samples(), SCHEDULE, config, tmp_path)
    assert joint.config[kind] is True
    if kind == "has_masked_input":
        assert joint.masked_inputs["depth"].weight.abs().max() > 0


def test_a_text_encoder_in_half_precision_trains_a_network_in_float32() -> None:
    joint, x0 = JointUNet.from_unet(tiny_unet("sd1")), torch.randn(1, 2, 4, 16, 16)
    embeds = torch.randn(1, 7, 32).half()
    losses = [
        joint_loss(joint, x0, Text(e), SCHEDULE, noise_offset=0.0, generator=torch.Generator().manual_seed(1))["loss"]
        for e in (embeds, embeds.float())
    ]
    assert torch.equal(*losses)
