"""Parses a command without running it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer.main

from jointnet.cli.main import app


def parse(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the path of a command ("demo scene") and its arguments by name; ``--plugin FILE`` may stand before it.

    Raises: what typer raises for arguments it cannot parse.
    """
    command, path, rest = typer.main.get_command(app), [], list(words)
    while rest[0] == "--plugin":
        del rest[:2]
    while hasattr(command, "commands"):
        path.append(rest.pop(0))
        command = command.commands[path[-1]]
    return " ".join(path), command.make_context(" ".join(["jointnet", *path]), rest).params
