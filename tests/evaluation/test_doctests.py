"""The examples in the metrics' docstrings hold."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

from jointnet.evaluation import metrics

MODULES = [found.name for found in pkgutil.iter_modules(metrics.__path__, "jointnet.evaluation.metrics.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0


def test_most_metrics_have_an_example() -> None:
    assert sum(doctest.testmod(importlib.import_module(name)).attempted for name in MODULES) > 25
