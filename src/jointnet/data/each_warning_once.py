"""Warnings about maps: the first of each kind, not one a sample."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class EachWarningOnce:
    """Lets through the first warning of each kind; not for threads, which share the machinery of warnings."""

    def __init__(self) -> None:
        self._seen: set[type[Warning]] = set()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Hold back warnings of kinds that were let through before."""
        with warnings.catch_warnings(record=True) as caught:
            yield
        for warning in caught:
            if warning.category not in self._seen:
                self._seen.add(warning.category)
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
