"""Samples that cannot be used are counted by reason, and too many of them end a run."""

from __future__ import annotations

import pickle

import pytest

from jointnet.data.bad_samples import MIN_READ, NUM_NAMES, BadSamples, parse_share
from jointnet.errors import BadSampleError, DataFolderError, RangeError

NO_CAPTION, TRUNCATED = BadSampleError("got no caption", "no caption"), BadSampleError("cut off", "truncated picture")


def counted(limit: float, total: int, good: int, bad: int) -> BadSamples:
    samples = BadSamples(limit, total)
    samples.add_good(good)
    for i in range(bad):
        samples.add_bad(f"{i}.png", NO_CAPTION)
    return samples


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("0.01", 0.01), (" 12.5 % ", 0.125), ("0", 0), ("100%", 1), ("1", 1)])
def test_a_share_is_a_percentage_or_a_number(text: str, share: float) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["", "%", "5", "-1%", "101%", "nan", "1,5%", "a few"])
def test_other_shares_are_refused(text: str) -> None:
    with pytest.raises(RangeError, match="such as 1%"):
        parse_share(text)


def test_counters_of_several_workers_are_the_counter_of_all() -> None:
    whole, parts = BadSamples(0.1, 100), [BadSamples(0.1, 100) for _ in range(3)]
    for i in range(30):
        for counter in (whole, parts[i // 10]):
            if i % 5:
                counter.add_good()
            else:
                counter.add_bad(f"{i}.png", TRUNCATED if i == 10 else NO_CAPTION)
    merged = BadSamples(0.1, 100)
    for part in parts:
        merged.merge(pickle.loads(pickle.dumps(part)))
    assert merged == whole
    assert merged.summary() == (
        "left out 6 of 30 samples: 5 no caption (0.png, 5.png, 15.png, 20.png, 25.png), 1 truncated picture (10.png)"
    )


def test_only_the_first_names_are_kept() -> None:
    samples = counted(1, 10**6, 0, 1000)
    assert len(samples.names["no caption"]) == NUM_NAMES
    assert samples.summary().endswith("4.png, ...)")
    assert counted(0, 10, 10, 0).summary() == ""


def test_too_many_bad_samples_are_named_with_what_to_do() -> None:
    samples = counted(0.01, 1000, 975, 20)
    samples.add_bad("x.png", TRUNCATED)
    with pytest.raises(DataFolderError) as error:
        samples.check()
    message = str(error.value)
    assert message.startswith("got 21 of 996 samples that cannot be used, more than 1%: 20 no caption (0.png, 1.png, ")
    assert "1 truncated picture (x.png)" in message
    assert message.endswith("--max-bad 3%")
    assert "\n" not in message


def test_a_share_counts_when_enough_samples_were_read_or_all() -> None:
    few = counted(0.01, 10**6, 8, 2)
    few.check()
    with pytest.raises(DataFolderError):
        few.check(at_end=True)
    with pytest.raises(DataFolderError):
        counted(0.01, 10**6, MIN_READ - 20, 20).check()
    counted(0.02, 10**6, MIN_READ - 20, 20).check()
    counted(0, 10**6, 10**6, 0).check(at_end=True)


def test_a_limit_that_cannot_be_kept_any_more_ends_the_pass_at_once() -> None:
    with pytest.raises(DataFolderError):
        counted(0, 10**6, 0, 1).check()
    counted(0.5, 4, 0, 2).check()
    with pytest.raises(DataFolderError):
        counted(0.5, 4, 0, 3).check()
