"""Calls that do less than all: what they leave out changes nothing where it should not, and costs nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from jointnet.errors import RangeError
from jointnet.models.joint_unet import JointUNet
from jointnet.types import Kept, Shortcut
from tests.bases import UNETS, network_inputs, perturbed, tiny_unet

MODALITIES = ("rgb", "depth", "normal")


@pytest.fixture(params=["sd2", "sdxl", "if-2"])
def base(request: pytest.FixtureRequest) -> str:
    return request.param


def network_of(base: str) -> JointUNet:
    """A tiny network whose branches differ and exchange."""
    return perturbed(JointUNet.from_unet(tiny_unet(base), MODALITIES).eval())


def pair(base: str) -> dict[str, Any]:
    """Two states, each with two prompts: the rows of guidance."""
    inputs = network_inputs(base, 4, 3)
    inputs["timestep"] = torch.full((4, 3), 300)
    for name in ("sample", "low_res"):
        if name in inputs:
            inputs[name] = _halves_alike(inputs[name]) if isinstance(inputs[name], Tensor) else inputs[name].map(_halves_alike)
    return inputs


def _halves_alike(rows: Tensor) -> Tensor:
    return torch.cat([rows[:2], rows[:2]])


def run(network: JointUNet, inputs: dict[str, Any], **shortcut: Any) -> Tensor:
    with torch.no_grad():
        return network(**inputs, shortcut=Shortcut(**shortcut) if shortcut else None).sample


def operations(network: JointUNet, inputs: dict[str, Any], **shortcut: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        run(network, inputs, **shortcut)
    return counter.get_total_flops()


def test_a_shortcut_that_leaves_nothing_out_changes_nothing(base: str) -> None:
    network, inputs = network_of(base), pair(base)
    whole = run(network, inputs)
    assert torch.allclose(run(network, inputs, kept=Kept()), whole, atol=1e-5)
    assert torch.allclose(run(network, inputs, kept=Kept(), layers=2), whole, atol=1e-5)


def test_unguided_dense_branches_are_the_prompts_own_and_send_them_to_both_halves(base: str) -> None:
    network, inputs = network_of(base), pair(base)
    whole, unguided = run(network, inputs), run(network, inputs, unguided=True)
    assert torch.allclose(unguided[2:], whole[2:], atol=1e-5)
    assert torch.equal(unguided[:2, 1:], unguided[2:, 1:])
    assert not torch.allclose(unguided[:2, 0], unguided[2:, 0], atol=1e-3)
    assert operations(network, inputs, unguided=True) < 0.72 * operations(network, inputs)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("unguided", [False, True])
def test_a_shallow_call_on_the_same_input_gives_the_same(base: str, layers: int, unguided: bool) -> None:
    network, inputs, kept = network_of(base), pair(base), Kept()
    whole = run(network, inputs, kept=kept, layers=layers, unguided=unguided)
    shallow = {"kept": kept, "layers": layers, "is_shallow": True, "unguided": unguided}
    assert torch.allclose(run(network, inputs, **shallow), whole, atol=1e-5)
    changed = {**inputs, "sample": inputs["sample"] + 0.5}
    assert not torch.allclose(run(network, changed, **shallow), whole, atol=1e-3)
    assert operations(network, inputs, **shallow) < 0.7 * operations(network, inputs, unguided=unguided)


def test_branches_at_rest_give_what_they_gave(base: str) -> None:
    network, inputs, kept = network_of(base), pair(base), Kept()
    whole = run(network, inputs, kept=kept, layers=1, keeps_sent=True)
    resting = {"kept": kept, "layers": 1, "keeps_sent": True, "resting": frozenset({"depth", "normal"})}
    assert torch.allclose(run(network, inputs, **resting), whole, atol=1e-5)
    changed = run(network, {**inputs, "sample": inputs["sample"] + 0.5}, **resting)
    assert torch.equal(changed[:, 1:], whole[:, 1:])
    assert not torch.allclose(changed[:, 0], whole[:, 0], atol=1e-3)
    assert operations(network, inputs, **resting) < 0.5 * operations(network, inputs)


def test_after_a_shallow_call_a_branch_at_rest_still_sends_all_of_its_skips() -> None:
    network, inputs, kept = network_of("sd2"), pair("sd2"), Kept()
    whole = run(network, inputs, kept=kept, layers=1, keeps_sent=True)
    run(network, inputs, kept=kept, layers=1, is_shallow=True, keeps_sent=True)
    assert torch.allclose(run(network, inputs, kept=kept, resting=frozenset({"depth"})), whole, atol=1e-5)


def test_deep_layers_run_where_the_shallow_ones_have_changed_too_much() -> None:
    network, inputs, kept = network_of("sd2"), pair("sd2"), Kept()
    run(network, inputs, kept=kept, layers=1)
    changed = {**inputs, "sample": inputs["sample"] + 0.5}
    shallow = {"kept": kept, "layers": 1, "is_shallow": True}
    whole = run(network, changed)
    assert not torch.allclose(run(network, changed, **shallow, tolerance=100.0), whole, atol=1e-3)
    assert torch.allclose(run(network, changed, **shallow, tolerance=1e-4), whole, atol=1e-5)
    assert torch.allclose(run(network, changed, **shallow, tolerance=1e-4), whole, atol=1e-5)


def test_a_shallow_part_larger_than_the_outermost_block_is_refused() -> None:
    with pytest.raises(RangeError, match="expected at most 3"):
        run(network_of("sd2"), pair("sd2"), layers=4)


def test_every_base_has_a_shallow_part() -> None:
    assert all(network_of(name).branch_of("rgb").most_layers >= 2 for name in UNETS)


@torch.no_grad()
def test_shortcuts_compile_as_whole_graphs(base: str) -> None:
    """One graph for whole calls, one for shallow ones, whatever is kept."""
    network, inputs, graphs = network_of(base), pair(base), []

    def backend(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    def predictions(call: Any) -> list[Tensor]:
        kept, found = Kept(), []
        for number in range(6):
            shortcut = Shortcut(unguided=True, layers=1, is_shallow=number % 2 == 1, kept=kept)
            found.append(call(**inputs, shortcut=shortcut, return_dict=False)[0])
        return found

    expected = predictions(network)
    torch.compiler.reset()
    for mine, whole in zip(predictions(torch.compile(network, backend=backend, fullgraph=True)), expected, strict=True):
        assert torch.allclose(mine, whole, atol=1e-5)
    assert 1 <= len(graphs) <= 3
