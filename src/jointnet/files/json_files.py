"""Small JSON files that stand beside others and need not be there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_named_values(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds; empty if there is no such file. Raises: OSError; ValueError if it holds anything else.

    A byte order mark, as editors on Windows write it, is no part of the content.
    """
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(content, dict):
        raise ValueError("it holds no named values")
    return content
