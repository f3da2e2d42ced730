"""Which calls of a run take which shortcut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jointnet.errors import RangeError, UnknownNameError
from jointnet.sampling.guidance import Guided
from jointnet.sampling.shortcuts import Shortcuts
from jointnet.sampling.speed import SPEEDS, Speed
from jointnet.types import Conditioning, Known, Step, Text

MODALITIES = ("rgb", "depth")


def at(index: int, place: object = None, count: int = 12) -> Step:
    return Step(index, count, torch.zeros(1, 2), place=place)


def conditioning(*known: bool) -> Conditioning:
    """A prompt; of each modality whether it is wholly known."""
    if not known:
        return Conditioning(Text(torch.zeros(1, 2, 4)))
    asked = ~torch.tensor(known).view(1, 2, 1, 1, 1).expand(1, 2, 1, 4, 4)
    return Conditioning(Text(torch.zeros(1, 2, 4)), known=Known(torch.zeros(1, 2, 4, 4, 4), asked))


def taken(speed: Speed, steps: range, *known: bool) -> list[str]:
    """d: deep layers run, s: only the shallow ones; with the first letters of the branches at rest."""
    shortcuts, words, x = Shortcuts(speed, MODALITIES), [], torch.zeros(1, 2, 4, 4, 4)
    for index in steps:
        shortcut = shortcuts.of(x, at(index), conditioning(*known))
        assert shortcut is not None
        words.append(("s" if shortcut.is_shallow else "d") + "".join(sorted(name[0] for name in shortcut.resting)))
    return words


def test_deep_layers_run_every_so_many_steps() -> None:
    assert taken(Speed(deep_every=3), range(7)) == ["d", "s", "s", "d", "s", "s", "d"]
    assert taken(Speed(deep_every=3), range(5, 9)) == ["d", "s", "s", "d"]


def test_a_solver_that_looks_twice_at_a_step_takes_over_within_it() -> None:
    shortcuts, x = Shortcuts(Speed(deep_every=2), MODALITIES), torch.zeros(1, 2, 4, 4, 4)
    found = [shortcuts.of(x, at(index), conditioning()) for index in (0, 1, 1, 2, 2)]
    assert [one.is_shallow for one in found if one is not None] == [False, True, True, False, True]


def test_what_is_known_rests_or_else_what_is_dense() -> None:
    assert taken(Speed(rests_every=2), range(4)) == ["d", "dd", "d", "dd"]
    assert taken(Speed(rests_every=2), range(2), True, False) == ["d", "dr"]
    assert taken(Speed(rests_every=2), range(2), False, True) == ["d", "dd"]


def test_a_branch_that_wakes_up_runs_whole() -> None:
    assert taken(Speed(rests_every=2, deep_every=3), range(6)) == ["d", "sd", "d", "sd", "d", "sd"]


def test_places_and_numbers_of_rows_keep_their_own() -> None:
    shortcuts, speed = Shortcuts(Speed(deep_every=4), MODALITIES), conditioning()
    one, two = torch.zeros(1, 2, 4, 4, 4), torch.zeros(2, 2, 4, 4, 4)
    kept = [shortcuts.of(x, at(i, place), speed) for i, (x, place) in enumerate([(one, "a"), (one, "b"), (two, "a"), (one, "a")])]
    assert [one.is_shallow for one in kept if one is not None] == [False, False, False, True]
    assert kept[0] is not None
    assert kept[3] is not None
    assert kept[0].kept is kept[3].kept
    for index in range(4, 40):
        shortcuts.of(one, at(index, index), speed)
    assert len(shortcuts._places) < 6


def test_only_a_pair_of_prompts_can_leave_guidance_out() -> None:
    shortcuts, x = Shortcuts(Speed(guides_dense=False), MODALITIES), torch.zeros(2, 2, 4, 4, 4)
    text = Text(torch.zeros(1, 2, 4))
    pair = shortcuts.of(x, at(0), Conditioning(text, text).guidance_pair())
    alone = shortcuts.of(x, at(0), conditioning())
    assert pair is not None
    assert alone is not None
    assert (pair.unguided, alone.unguided) == (True, False)


def test_exactness_takes_no_shortcut() -> None:
    assert Shortcuts(Speed(), MODALITIES).of(torch.zeros(1, 2, 4, 4, 4), at(0), conditioning()) is None


def test_guidance_ends_where_its_share_of_the_steps_does() -> None:
    rows: list[int] = []

    def denoiser(x: Tensor, _step: Step, _conditioning: Conditioning) -> Tensor:
        rows.append(len(x))
        return x

    text = Text(torch.zeros(1, 2, 4))
    guided = Guided(denoiser, 5.0, is_guided=Speed(guided=(0.25, 0.75)).is_guided)
    for index in range(8):
        guided(torch.ones(1, 2, 4, 4, 4), at(index, count=8), Conditioning(text, text))
    assert rows == [1, 1, 2, 2, 2, 2, 1, 1]


@pytest.mark.parametrize(
    "wrong",
    [{"guided": (0.5, 0.2)}, {"deep_every": 0}, {"steps": 0}, {"rests_every": -1}, {"layers": 0}, {"stride": 1.5}, {"alone_share": 2}],
)
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(RangeError, match="expected"):
        Speed(**wrong)


def test_an_unknown_solver_is_refused_and_presets_stand() -> None:
    with pytest.raises(UnknownNameError, match="dpm"):
        Speed(solver="fastest")
    assert {"balanced", "fast"} == set(SPEEDS)
