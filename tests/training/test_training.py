from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from jointnet.errors import DivergenceError, RunFolderError
from jointnet.recipes import RECIPES, demo_stage1, demo_stage2, get_recipe, masked, stage1, stage2, tasks
from jointnet.training.config import OptimConfig
from jointnet.training.provenance import write_provenance
from jointnet.training.state import STATE_FILE, Progress, read_progress
from tests.training.toy import fit_rows

CONFIG = OptimConfig(lr=1e-2, batch_size=4, steps=12, warmup_steps=2, decay="cosine", ema_decay=0.9)


def toy() -> tuple[nn.Linear, Tensor]:
    torch.manual_seed(0)
    return nn.Linear(3, 3), torch.randn(16, 3)


def train_toy(run_dir: Path, steps: int = 12, **more: Any) -> list[Tensor]:
    model, data = toy()

    def loss_fn(rows: Tensor, noise: Tensor) -> dict[str, Tensor]:
        x = data[rows] + 0.1 * noise
        return {"loss": (model(x) - 2 * x).square().mean()}

    fit_rows(model, loss_fn, config=replace(CONFIG, steps=steps), run_dir=run_dir, log_every=4, **more)
    return [p.detach().clone() for p in model.parameters()]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    class Stopped(Exception):
        """Raised where the run is cut."""

    whole = train_toy(tmp_path / "whole")
    model, data = toy()
    calls = 0

    def loss_fn(rows: Tensor, noise: Tensor) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise Stopped
        x = data[rows] + 0.1 * noise
        return {"loss": (model(x) - 2 * x).square().mean()}

    with pytest.raises(Stopped):
        fit_rows(model, loss_fn, config=CONFIG, run_dir=tmp_path / "cut", save_every_steps=1, log_every=4)
    for workers in (0, 2):  # the number may change
        shutil.copytree(tmp_path / "cut", tmp_path / f"cut{workers}")
        resumed = train_toy(tmp_path / f"cut{workers}", num_workers=workers)
        assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_accumulated_micro_batches_equal_the_whole_batch(tmp_path: Path) -> None:
    whole = train_toy(tmp_path / "whole")
    for micro in (1, 2):
        parts = train_toy(tmp_path / str(micro), micro_batch_size=micro)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, parts, strict=True))


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="4 samples for 1 processes with 3 a forward; expected a multiple of 3"):
        train_toy(tmp_path / "run", micro_batch_size=3)


def test_the_last_states_are_kept(tmp_path: Path) -> None:
    train_toy(tmp_path, save_every_steps=2, keep_states=3)
    names = sorted(path.name for path in tmp_path.glob("state*"))
    assert names == ["state-00000008.safetensors", "state-00000010.safetensors", "state.safetensors"]
    shutil.copy(tmp_path / names[0], tmp_path / STATE_FILE)
    again = train_toy(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(train_toy(tmp_path / "whole"), again, strict=True))


def test_the_loss_curve_is_a_table_and_a_picture(tmp_path: Path) -> None:
    train_toy(tmp_path)
    lines = (tmp_path / "loss.csv").read_text().splitlines()
    assert lines[0] == "step,seconds,lr,waiting,loss"
    assert [line.split(",")[0] for line in lines[1:]] == ["4", "8", "12"]
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.size == (800, 400)


def test_validation_sees_the_averaged_weights_and_changes_nothing(tmp_path: Path) -> None:
    model, _ = toy()
    seen: list[Tensor] = []

    def loss_fn(rows: Tensor, noise: Tensor) -> dict[str, Tensor]:
        return {"loss": (model(noise) - rows[:, None]).square().mean()}

    config = replace(CONFIG, steps=6)
    fit_rows(model, loss_fn, config=config, run_dir=tmp_path / "a", validate=lambda _: seen.append(model.weight.clone()), validate_every=3)
    validated = model.weight.detach().clone()
    model.load_state_dict(toy()[0].state_dict())
    fit_rows(model, loss_fn, config=config, run_dir=tmp_path / "b")
    assert torch.equal(model.weight, validated)
    assert torch.equal(seen[1], validated), "the last one sees the result"
    assert not torch.equal(seen[0], seen[1])


def test_rows_of_the_curve_are_means_also_after_a_resume(tmp_path: Path) -> None:
    model, data = toy()

    def loss_fn(rows: Tensor, noise: Tensor) -> dict[str, Tensor]:
        return {"loss": model(data[rows]).square().mean(), "one": torch.ones(())}

    for steps in (6, 12):
        progress = fit_rows(model, loss_fn, config=replace(CONFIG, steps=steps), run_dir=tmp_path, log_every=4)
    assert [row["one"] for row in progress.curve] == [1, 1, 1]


def test_the_state_of_other_weights_is_refused(tmp_path: Path) -> None:
    train_toy(tmp_path)
    model, data = toy()
    model.bias.requires_grad_(False)
    for config in (CONFIG, replace(CONFIG, ema_decay=None)):
        with pytest.raises(RunFolderError, match=r"trains other weights|another run \(ema_decay 0\.9, now None\)"):
            fit_rows(model, lambda i, _: {"loss": model(data[i]).square().mean()}, config=config, run_dir=tmp_path)
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

    def loss_fn(rows: Tensor, noise: Tensor) -> dict[str, Tensor]:
        seen.append(model.weight.detach().clone())
        return {"loss": (model(data[rows]) - 1).square().mean()}

    fit_rows(model, loss_fn, config=replace(CONFIG, steps=3, ema_decay=0.05), run_dir=tmp_path)
    after_first, after_second = seen[1], seen[2]
    average = 0.05 * after_first + 0.95 * after_second  # the first step's average is its weights
    third = (model.weight - 0.05 * average) / 0.95
    assert not torch.allclose(model.weight, third, atol=1e-5)
    assert (third - after_second).abs().max() < 2 * CONFIG.lr


def test_a_budget_ends_the_run(tmp_path: Path) -> None:
    model, data = toy()
    config = replace(CONFIG, steps=10**9)
    progress = fit_rows(
        model, lambda i, _: {"loss": model(data[i]).square().mean()}, config=config, run_dir=tmp_path, budget_minutes=0.5 / 60
    )
    assert 0 < progress.step < 10**9
    assert progress.seconds >= 0.5


def test_a_run_of_losses_that_are_not_finite_stops(tmp_path: Path) -> None:
    model, data = toy()
    with pytest.raises(DivergenceError, match=r"3 steps in a row, the last of them step 2; .*state of step 0 is kept"):
        fit_rows(model, lambda i, _: {"loss": model(data[i]).sum() * torch.inf}, config=CONFIG, run_dir=tmp_path, max_nonfinite=2)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_a_loss_that_is_not_finite_is_skipped_and_counted(bad: float, tmp_path: Path) -> None:
    model, data = toy()
    weights: list[Tensor] = []

    def loss_fn(rows: Tensor, noise: Tensor) -> dict[str, Tensor]:
        weights.append(model.weight.detach().clone())
        return {"loss": model(data[rows]).square().mean() * (bad if len(weights) == 3 else 1)}

    progress = fit_rows(model, loss_fn, config=replace(CONFIG, steps=5), run_dir=tmp_path)
    assert (progress.skipped, progress.step) == (1, 5)
    assert torch.equal(weights[3], weights[2])
    assert not torch.equal(weights[4], weights[3])
    assert read_progress(tmp_path, {}).skipped == 1


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

        def loss_fn(rows: Tensor, noise: Tensor, model: nn.Module = model, plain: bool = plain) -> dict[str, Tensor]:
            assert torch.backends.cuda.flash_sdp_enabled() != plain  # the switch holds for every device
            h = model(noise.repeat(1, 32).view(4, 2, 6, 8))
            loss = scaled_dot_product_attention(h, h, h).square().mean()
            losses[plain].append(float(loss.detach()))
            return {"loss": loss}

        fit_rows(model, loss_fn, config=replace(CONFIG, steps=3, has_plain_attention=plain), run_dir=tmp_path / str(plain))
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)
