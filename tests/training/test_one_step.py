"""Maps of a picture in one step: what is compared, what learns, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jointnet.codecs.latent import LatentCodec
from jointnet.diffusion.schedule import DiscreteProcess, FlowProcess
from jointnet.errors import UnsupportedBaseError
from jointnet.modalities.modality import get_modality
from jointnet.models.joint_unet import JointUNet
from jointnet.training.one_step import OneStepObjective, three_channels
from jointnet.types import Text
from tests.bases import perturbed, tiny_base

PROCESS = DiscreteProcess(torch.linspace(0.999, 0.01, 1000))
EMPTY = Text(torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(5)))


def objective_of(*, masked: bool = False) -> OneStepObjective:
    base = tiny_base("sd1")
    network = perturbed(JointUNet.from_unet(base.unet, ("rgb", "depth", "normal")))
    network.register_to_config(has_independent_timesteps=True)
    if masked:
        network.add_masked_input()
    codec = LatentCodec(base.vae.requires_grad_(False), read=three_channels)
    return OneStepObjective(network, PROCESS, codec=codec, unconditional=EMPTY)


def batch(objective: OneStepObjective) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    depth, normal = torch.rand(2, 1, 32, 32, generator=g), torch.randn(2, 3, 32, 32, generator=g)
    normal = normal / normal.norm(dim=1, keepdim=True)
    normal[:, 2] = normal[:, 2].abs()
    factor = objective.codec.factor
    x0 = torch.randn(2, 3, 4, 32 // factor, 32 // factor, generator=g)
    draws = objective.draw(x0, torch.Generator().manual_seed(1))
    return {"x0": x0, "text": Text(torch.randn(2, 7, 32)), "draws": draws, "shown": {"depth": depth, "normal": normal}}


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_the_error_is_between_decoded_channels_and_the_maps(masked: bool) -> None:
    objective = objective_of(masked=masked)
    inputs, seen = batch(objective), list[tuple[Tensor, Tensor, Any]]()

    def look(_module: Any, arguments: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        seen.append((arguments[0], arguments[1], (kwargs["known"], output.sample)))

    objective.network.register_forward_hook(look, with_kwargs=True)
    losses = objective(**inputs)
    ((x, t, (known, predicted)),) = seen
    assert torch.equal(x[:, 0], inputs["x0"][:, 0])
    assert t.tolist() == [[0, 999, 999]] * 2
    assert (known is not None) == masked
    if masked:
        assert known.asked.flatten(2).all(2).tolist() == [[False, True, True]] * 2
    clean = PROCESS.clean(predicted, x, t)
    for index, name in ((1, "depth"), (2, "normal")):
        decoded = objective.codec.decode(name, clean[:, index])
        expected = (decoded - get_modality(name).encode(inputs["shown"][name])).abs().mean()
        assert losses[name] == pytest.approx(float(expected), rel=1e-5)
    assert losses["rgb"] == 0
    assert objective.counted(inputs["draws"]).tolist() == [0, 2, 2]


def test_it_learns_through_the_decoder() -> None:
    objective = objective_of()
    inputs, losses = batch(objective), list[float]()
    optimizer = torch.optim.Adam(objective.network.parameters(), lr=1e-3)
    for _ in range(10):
        optimizer.zero_grad()
        loss = objective(**inputs)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_networks_and_bases_that_cannot_be_trained_so_are_refused() -> None:
    network = JointUNet.from_unet(tiny_base("sd1").unet)
    codec = LatentCodec(tiny_base("sd1").vae)
    with pytest.raises(UnsupportedBaseError, match="independent timesteps"):
        OneStepObjective(network, PROCESS, codec=codec, unconditional=EMPTY)
    with pytest.raises(UnsupportedBaseError, match="flow matching"):
        OneStepObjective(network, FlowProcess(), codec=codec, unconditional=EMPTY)
