"""The objective (Eq. 1) on tiny real networks, and the stages that minimise it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jointnet.codecs.latent import MissingCodec
from jointnet.data.latents import LatentStore, Row
from jointnet.data.order import sample_generator
from jointnet.data.sample import Sample
from jointnet.diffusion.schedule import DiscreteProcess, FlowProcess, NoiseLevels
from jointnet.errors import RunFolderError, UnsupportedBaseError
from jointnet.models.direct_extend import DirectExtend
from jointnet.models.joint_unet import JointUNet
from jointnet.models.upscaling import FACTOR, shrink_and_enlarge
from jointnet.recipes import independent, masked, stage1, stage2, tasks
from jointnet.training.config import OptimConfig, TrainConfig
from jointnet.training.draws import Draws, draw_noise
from jointnet.training.joint import joint_objective, keeping_abilities, train_joint
from jointnet.training.joint_feed import JointFeed
from jointnet.training.objective import JointObjective, min_snr_weight
from jointnet.training.state import Progress
from jointnet.types import Text
from tests.bases import network_inputs, perturbed, tiny_unet

CONFIG = OptimConfig(lr=1e-2, batch_size=4, steps=12, warmup_steps=2, decay="cosine", ema_decay=0.9)
PROCESS = DiscreteProcess(torch.linspace(0.999, 0.01, 1000))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def test_the_loss_is_equation_1() -> None:
    """Against Eq. 1 written out for two separate networks: at initialisation the joint network is two copies of the base."""
    objective, base = JointObjective(JointUNet.from_unet(tiny_unet("sd1")), PROCESS, noise_offset=0.05), tiny_unet("sd1")
    x0, text = torch.randn(3, 2, 4, 16, 16), Text(torch.randn(3, 7, 32))
    losses = objective(x0, text, objective.draw(x0, seeded(1)))

    g = seeded(1)
    t = torch.randint(1000, (3,), generator=g)
    eps = draw_noise(x0.shape, 0.05, g)
    total = 0.0
    for modality in range(2):
        a = PROCESS.alpha_bar[t][:, None, None, None]
        noisy = a.sqrt() * x0[:, modality] + (1 - a).sqrt() * eps[:, modality]
        total += (eps[:, modality] - base(noisy, t, text.embeds).sample).square().mean()
    assert losses["loss"] == pytest.approx(float(total), rel=1e-5)
    assert losses["loss"] == pytest.approx(float(losses["rgb"] + losses["depth"]), rel=1e-6)


@torch.no_grad()
def test_flow_matching_predicts_the_noise_minus_the_clean_state() -> None:
    objective, base = JointObjective(JointUNet.from_unet(tiny_unet("sd1")), FlowProcess(shift=3.0)), tiny_unet("sd1")
    x0, text = torch.randn(3, 2, 4, 16, 16), Text(torch.randn(3, 7, 32))
    draws = objective.draw(x0, seeded(1))
    losses = objective(x0, text, draws)
    for index, name in enumerate(("rgb", "depth")):
        sigma = draws.levels.t[:, index] / 1000
        noisy = torch.lerp(x0[:, index], draws.noise[:, index], sigma[:, None, None, None])
        velocity = draws.noise[:, index] - x0[:, index]
        expected = (velocity - base(noisy, draws.levels.t[:, index], text.embeds).sample).square().mean()
        assert losses[name] == pytest.approx(float(expected), rel=1e-5)


def test_the_noise_offset_is_drawn_for_each_sample_modality_and_channel() -> None:
    x0 = torch.zeros(400, 2, 4, 32, 32)
    offsets = draw_noise(x0.shape, 1.0, torch.Generator().manual_seed(0)).mean((3, 4))
    assert offsets.std() == pytest.approx(1.0, abs=0.05)
    correlation = torch.corrcoef(offsets.flatten(1).T)
    assert (correlation - torch.eye(8)).abs().max() < 0.2
    assert draw_noise(x0.shape, 0.0, torch.Generator().manual_seed(0)).mean((3, 4)).std() < 0.05


class NumbersAsText:
    """The plainest text encoder: a token's embedding is its number, five a prompt."""

    max_tokens = None

    def tokenize(self, prompts: Sequence[str], length: int | None = None) -> Tensor:  # noqa: ARG002 - a PromptEncoder
        numbers = [[float(word) for word in prompt.split()] for prompt in prompts]
        return torch.tensor([[[*row, *[0.0] * 5][:5]] for row in numbers])

    def encode(self, tokens: Tensor, clip_skip: int | None = None) -> Text:  # noqa: ARG002 - a PromptEncoder
        return Text(tokens[:, 0, :, None].float().expand(-1, -1, 32))


class NamesOnly:
    """A source whose rows were all encoded before."""

    depth_near_m = None

    def __len__(self) -> int:
        return 16

    @property
    def blocks(self) -> Sequence[int]:
        return (16,)

    def id_of(self, row: int) -> str:
        return str(row)

    def read(self, row: int, modalities: Sequence[str]) -> Sample:  # noqa: ARG002 - a Source
        raise AssertionError("nothing is read twice")

    def contents(self, modalities: Sequence[str]) -> dict[str, str]:  # noqa: ARG002 - a Source
        return {}


def feed_of(objective: JointObjective, config: TrainConfig, folder: Path, bad: Collection[int] = ()) -> JointFeed:
    """Sixteen encoded samples with two captions each."""
    store = LatentStore(folder, 16, ("rgb", "depth"), "random numbers")
    latents = torch.randn(2, 16, 4, 16, 16, generator=seeded())
    rows = [
        Row(str(i), (f"{i + 1} 1", f"{i + 1} 2"), (128, 128), (0, 0), (128, 128), (128, 128), *(("spoilt", "got it") if i in bad else ()))
        for i in range(16)
    ]
    if not store.has(0):
        parts = zip(("rgb", "depth"), latents, strict=True)
        store.write(0, rows, {name: [torch.empty(0) if i in bad else value for i, value in enumerate(part)] for name, part in parts})
    text = Text(torch.zeros(1, 5, 32))
    source, encoder, codec = NamesOnly(), NumbersAsText(), MissingCodec(4)
    return JointFeed(source, ("rgb", "depth"), config, objective.rule, codec, encoder, text, (128, 128), store=store)


def train(joint: JointUNet, config: TrainConfig, run_dir: Path) -> Progress:
    objective = joint_objective(joint, PROCESS, config)
    return train_joint(objective, feed_of(objective, config, run_dir / "latents"), config, run_dir)


def test_text_is_dropped_at_its_rate_and_captions_vary(tmp_path: Path) -> None:
    feed = feed_of(JointObjective(JointUNet.from_unet(tiny_unet("sd1")), PROCESS), stage1(), tmp_path)
    items = [feed.item(row, sample_generator(0, epoch, str(row))) for row in range(16) for epoch in range(100)]
    assert sum(item.is_dropped for item in items) / 1600 == pytest.approx(0.15, abs=0.03)
    assert sum(item.caption.endswith(" 1") for item in items) / 1600 == pytest.approx(0.5, abs=0.05)
    text = feed.prepare(feed.collate(items[:64]), torch.device("cpu")).text
    assert text is not None
    assert [bool(embeds.any()) for embeds in text.embeds] == [not item.is_dropped for item in items[:64]]


def test_draws_of_a_sample_change_with_the_epoch_only(tmp_path: Path) -> None:
    feed = feed_of(JointObjective(JointUNet.from_unet(tiny_unet("sd1")), PROCESS), stage1(), tmp_path)
    first, again, later = (feed.item(3, sample_generator(0, epoch, "3")) for epoch in (0, 0, 1))
    assert torch.equal(first.draws.noise, again.draws.noise)
    assert not torch.equal(first.draws.noise, later.draws.noise)


def test_a_bad_sample_does_not_count(tmp_path: Path) -> None:
    """The loss of a batch with one equals that of the batch without it."""
    objective = JointObjective(JointUNet.from_unet(tiny_unet("sd1")), PROCESS)
    feed = feed_of(objective, stage1(), tmp_path, bad=(1,))
    losses = []
    for rows in ((0, 1, 2), (0, 2)):
        batch = feed.prepare(feed.collate([feed.item(row, seeded(row)) for row in rows]), torch.device("cpu"))
        assert batch.x0 is not None
        assert batch.text is not None
        losses.append(objective(batch.x0, batch.text, batch.draws, is_good=batch.is_good)["loss"])
    assert batch.is_good.all()
    assert torch.allclose(*losses, rtol=1e-5)


@torch.no_grad()
def test_a_teachers_prediction_is_the_target() -> None:
    teacher, student = perturbed(JointUNet.from_unet(tiny_unet("sd2"))), JointUNet.from_unet(tiny_unet("sd2"), branch="thin:0.5")
    objective = JointObjective(student, PROCESS, teacher=teacher)
    x0, text = torch.randn(2, 2, 4, 16, 16), Text(torch.randn(2, 7, 32))
    draws = objective.draw(x0, seeded(1))
    losses = objective(x0, text, draws)
    x_t = PROCESS.add_noise(x0, draws.noise, draws.levels.t)
    both = (network(x_t, draws.levels.t, text.embeds).sample for network in (student, teacher))
    expected = (next(both) - next(both)).square().mean((0, 2, 3, 4))
    assert losses["loss"] == pytest.approx(float(expected.sum()), rel=1e-5)
    assert losses["depth"] == pytest.approx(float(expected[1]), rel=1e-5)
    assert {id(p) for p in objective.parameters()} == {id(p) for p in student.parameters()}
    assert not any(p.requires_grad for p in teacher.parameters())
    assert float(JointObjective(teacher, PROCESS, teacher=teacher)(x0, text, draws)["loss"]) == 0


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (lambda: JointUNet.from_unet(tiny_unet("sd2"), ("rgb", "normal")), "modalities"),
        (lambda: JointUNet.from_unet(tiny_unet("sd2")).add_masked_input(), "has_masked_input"),
        (lambda: JointUNet.from_unet(tiny_unet("sdxl")), "cross_attention_dim"),
    ],
)
def test_a_teacher_of_another_kind_is_refused(teacher: Callable[[], JointUNet], message: str) -> None:
    with pytest.raises(UnsupportedBaseError, match=message):
        JointObjective(JointUNet.from_unet(tiny_unet("sd2")), PROCESS, teacher=teacher())


def test_min_snr_weighs_the_error_of_the_clean_state() -> None:
    """All predictions of one clean state have the same weight in its units: min(SNR, gamma) (Hang et al., 2023)."""
    t = torch.tensor([1, 300, 998])
    alpha_bar = PROCESS.alpha_bar[t]
    snr = alpha_bar / (1 - alpha_bar)
    for kind, scale in (("epsilon", snr), ("v_prediction", snr + 1), ("sample", torch.ones(3))):
        weight = min_snr_weight(DiscreteProcess(PROCESS.alpha_bar, kind), t, 5.0)
        assert torch.allclose(weight * scale, snr.clamp(max=5.0), rtol=1e-4)  # |eps error|^2 = SNR |x error|^2
    with pytest.raises(UnsupportedBaseError, match="min_snr_gamma for a base of flow matching"):
        JointObjective(JointUNet.from_unet(tiny_unet("sd1")), FlowProcess(), min_snr_gamma=5.0)


def state_of(joint: JointUNet) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in joint.state_dict().items()}


@pytest.mark.parametrize("frozen", [True, False])
def test_stage_1_keeps_the_rgb_branch_and_stage_2_does_not(frozen: bool, tmp_path: Path) -> None:
    joint = JointUNet.from_unet(tiny_unet("sd1"))
    before = state_of(joint)
    config = replace(stage1() if frozen else stage2(), optim=replace(CONFIG, steps=3, ema_decay=None))
    train(joint, config, tmp_path)
    changed = {k for k, v in joint.state_dict().items() if not torch.equal(v, before[k])}
    assert any(k.startswith("branches.rgb.") for k in changed) != frozen
    assert any(k.startswith("branches.depth.") for k in changed)
    for route in ("rgb_to_depth", "depth_to_rgb"):
        assert any(k.startswith(f"exchanges.{route}.mid") for k in changed)


def test_a_further_stage_keeps_the_ways_to_condition() -> None:
    joint = JointUNet.from_unet(tiny_unet("sd1"))
    assert keeping_abilities(stage2(), joint) == stage2()
    joint.add_masked_input().register_to_config(has_independent_timesteps=True)
    assert keeping_abilities(stage2(), joint) == tasks()
    assert keeping_abilities(independent(), joint) == tasks()


def test_a_clean_modality_is_the_input_as_it_is_and_not_in_the_loss() -> None:
    joint = JointUNet.from_unet(tiny_unet("sd1"))
    inputs: list[Tensor] = []
    joint.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    x0 = torch.randn(4, 2, 4, 16, 16)
    levels = NoiseLevels(torch.tensor([[0, 500]] * 4), torch.tensor([[True, False]] * 4))
    losses = JointObjective(joint, PROCESS)(x0, Text(torch.randn(4, 7, 32)), Draws(levels, torch.randn_like(x0)))
    assert torch.equal(inputs[0][:, 0], x0[:, 0])
    assert not torch.isclose(inputs[0][:, 1], x0[:, 1]).all()
    assert losses["rgb"] == 0
    assert losses["loss"] == losses["depth"] > 0


def conditional_objective(modalities: tuple[str, ...]) -> JointObjective:
    joint = JointUNet.from_unet(tiny_unet("sd1"), modalities).add_masked_input()
    joint.register_to_config(has_independent_timesteps=True)
    return JointObjective(joint, PROCESS)


def test_with_both_ways_what_is_wholly_known_is_clean_and_the_rest_shares_a_level() -> None:
    draws = conditional_objective(("rgb", "depth", "normal")).draw(torch.empty(400, 3, 4, 8, 8), seeded())
    assert draws.asked is not None
    assert torch.equal(draws.levels.is_clean, draws.asked.sum((2, 3, 4)) == 0)
    assert 0.2 < float(draws.levels.is_clean.any(1).float().mean()) < 0.6
    for t, is_clean in zip(draws.levels.t, draws.levels.is_clean, strict=True):
        assert (t[is_clean] == 0).all()
        assert len(t[~is_clean].unique()) == 1


def test_rows_of_the_draws_are_the_draws_of_rows() -> None:
    objective = conditional_objective(("rgb", "depth"))
    x0, text = torch.randn(4, 2, 4, 8, 8), Text(torch.randn(4, 7, 32))
    draws = objective.draw(x0, seeded(7))
    whole = objective(x0, text, draws)
    counts = (~draws.levels.is_clean).sum(0)
    weighted = torch.zeros(2)
    for row in range(4):
        rows = slice(row, row + 1)
        losses = objective(x0[rows], text.map(lambda value, rows=rows: value[rows]), draws.take(rows))
        weighted += torch.stack([losses["rgb"], losses["depth"]]).detach()
    assert torch.allclose(weighted / counts, torch.stack([whole["rgb"], whole["depth"]]), atol=1e-5)


def test_an_upscaling_base_reads_its_own_maps_smaller_and_noised_by_their_own_process() -> None:
    joint = JointUNet.from_unet(tiny_unet("if-2"))
    low_res_process = DiscreteProcess(torch.linspace(0.9, 0.1, 500))
    objective = JointObjective(joint, PROCESS, low_res_process=low_res_process)
    read: list[dict] = []
    joint.register_forward_pre_hook(lambda _, _args, kwargs: read.append(kwargs), with_kwargs=True)
    x0, text = torch.randn(2, 2, 3, 64, 64), Text(network_inputs("if-2", 2, 2)["encoder_hidden_states"])
    draws = objective.draw(x0, seeded())
    objective(x0, text, draws)
    assert draws.low_res_t is not None
    assert draws.low_res_noise is not None
    assert draws.low_res_t.max() < 500
    low_res = read[0]["low_res"]
    assert torch.equal(low_res.level, draws.low_res_t)
    a = low_res_process.alpha_bar[draws.low_res_t][:, None, None, None, None]
    assert torch.allclose((low_res.maps - (1 - a).sqrt() * draws.low_res_noise) / a.sqrt(), shrink_and_enlarge(x0), atol=1e-4)


def test_shrunk_and_enlarged_maps_keep_their_means_and_lose_their_detail() -> None:
    x0 = torch.randn(1, 2, 3, 64, 64) + 5
    blurred = shrink_and_enlarge(x0)
    assert blurred.shape == x0.shape
    assert float(blurred.mean()) == pytest.approx(5, abs=0.05)
    assert blurred.std((3, 4)).max() < 2 / FACTOR


@pytest.mark.parametrize("kind", ["has_masked_input", "has_independent_timesteps"])
def test_the_conditional_stages_train_and_say_so(kind: str, tmp_path: Path) -> None:
    joint = JointUNet.from_unet(tiny_unet("sd1"))
    config = replace(masked() if kind == "has_masked_input" else independent(), optim=replace(CONFIG, steps=2))
    train(joint, config, tmp_path)
    assert joint.config[kind] is True
    if kind == "has_masked_input":
        assert joint.masked_inputs["depth"].weight.abs().max() > 0


def test_a_text_encoder_in_half_precision_trains_a_network_in_float32() -> None:
    objective, x0 = JointObjective(JointUNet.from_unet(tiny_unet("sd1")), PROCESS), torch.randn(1, 2, 4, 16, 16)
    embeds = torch.randn(1, 7, 32).half()
    losses = [objective(x0, Text(e), objective.draw(x0, seeded(1)))["loss"] for e in (embeds, embeds.float())]
    assert torch.equal(*losses)


def test_what_is_sent_to_workers_holds_no_network(tmp_path: Path) -> None:
    """On systems that start workers anew, a feed is pickled; a copy reads the same items."""
    objective = JointObjective(JointUNet.from_unet(tiny_unet("sd1")), PROCESS)
    feed = feed_of(objective, stage1(), tmp_path)
    feed.text_encoder = torch.nn.Linear(1000, 1000)
    sent = pickle.dumps(feed)
    assert len(sent) < 100_000
    there = pickle.loads(sent)
    here, copied = (one.collate([one.item(row, seeded(row)) for row in (3, 5)]) for one in (feed, there))
    assert torch.equal(here.x0, copied.x0)
    assert torch.equal(here.draws.noise, copied.draws.noise)
    assert here.captions == copied.captions


def test_direct_extend_trains_in_a_joint_networks_place(tmp_path: Path) -> None:
    network = DirectExtend.from_unet(tiny_unet("sd1"))
    config = replace(stage1(), optim=replace(CONFIG, steps=1))
    objective = JointObjective(network, PROCESS)  # pyright: ignore[reportArgumentType] - it takes a joint network's place
    assert train_joint(objective, feed_of(objective, config, tmp_path / "latents"), config, tmp_path / "run").step == 1


def test_a_setting_that_is_gone_makes_another_run(tmp_path: Path) -> None:
    config = TrainConfig(optim=replace(CONFIG, steps=1))
    objective = joint_objective(JointUNet.from_unet(tiny_unet("sd1")), PROCESS, config)
    feed = feed_of(objective, config, tmp_path / "latents")
    train_joint(objective, feed, config, tmp_path / "run", facts={"teacher": "a model"})
    with pytest.raises(RunFolderError, match="teacher a model, now none"):
        train_joint(objective, feed, config, tmp_path / "run")
