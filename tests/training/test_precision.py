"""The type that a network is trained in."""

from __future__ import annotations

import pytest
import torch

from jointnet.machine.precision import autocast_type, multiplies_bfloat16


def test_precisions_by_name_mean_the_same_everywhere():
    assert autocast_type("float32") is torch.float32
    assert autocast_type("bfloat16") is torch.bfloat16


def test_the_fastest_is_bfloat16_only_where_the_processor_multiplies_it():
    assert (autocast_type("fastest", "cpu") is torch.bfloat16) == multiplies_bfloat16()
    assert autocast_type("fastest", "cuda") is torch.bfloat16


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="float32, bfloat16, float16 or fastest"):
        autocast_type("half")
