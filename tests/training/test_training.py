from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from jointnet.errors import DivergenceError, RunFolderError
from jointnet.recipes import RECIPES, demo_stage1, demo_stage2, get_recipe, masked, stage1, stage2, tasks
from jointnet.training.config import OptimConfig
from jointnet.training.loop import batch_indices, fit
from jointnet.training.provenance import write_provenance
from jointnet.training.state import Progress

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
        with pytest.raises(RunFolderError, match=r"trains other weights|another run \(ema_decay 0\.9, now None\)"):
            fit(model, lambda i, _: {"loss": model(data[i]).square().mean()}, num_samples=16, config=config, run_dir=tmp_path)
        model.bias.requires_grad_(True)


def test_a_curve_has_at_most_100_rows(tmp_path: Path) -> None:
    progress = Progress(step=199, samples=199, seconds=1.0, curve=[{"step": step, "seconds": 0.0, "lr": 1.0} for step in range(1, 200)])
    write_provenance(tmp_path, "toy", CONFIG, progress)
    assert len(json.loads((tmp_path / "provenance.json").read_text())["loss_curve"]) == 99


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


def test_recipes_follow_the_paper() -> None:
    first, second = stage1(), stage2()
    assert (first.optim.lr, first.optim.steps, first.optim.warmup_steps, first.optim.batch_size) == (1e-4, 10_000, 1000, 256)
    assert (first.text_drop, first.noise_offset, first.freeze_rgb) == (0.15, 0.05, True)
    assert (second.optim.lr, second.text_drop, second.freeze_rgb) == (1e-5, 0.5, False)
    assert demo_stage2().optim.lr == pytest.approx(demo_stage1().optim.lr / 10)
    assert masked() == replace(second, has_masked_input=True)
    assert tasks() == replace(second, has_masked_input=True, has_independent_timesteps=True)
    assert {name: get_recipe(name) for name in RECIPES}


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
