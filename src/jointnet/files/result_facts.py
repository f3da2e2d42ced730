"""What a RESULT_FILE says of the files beside it, and whether they still are what a command of ours wrote."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jointnet.files.fingerprints import of_content
from jointnet.files.json_files import read_named_values

RESULT_FILE = "result.json"
"""Facts about a result, with the names and contents of its files; it is renamed last, so that where it lists files all of them lie."""

PROGRAM = "jointnet"
"""Entry ``program`` of every RESULT_FILE of ours."""

SCENE_COMMAND = "demo scene"
"""The command that wrote no ``command`` into its RESULT_FILE at first."""

DATA_COMMAND = "demo scene --num"
_DATA_NAME = r"\d{8}(\.png|\.txt|\.depth\.npy|\.normal\.npy)"
"""The command that writes a data folder of demo scenes, and its files."""

UNFINISHED = "unfinished"
"""Entry of a RESULT_FILE while files are renamed: name -> content of those that may have taken their place."""


def our_facts(path: Path) -> dict[str, Any]:
    """Return what a command of ours wrote as RESULT_FILE; empty if there is no such file, or it is broken or another program's."""
    try:
        facts = read_named_values(path)
    except (OSError, ValueError, RecursionError):
        return {}
    if facts.get("program") == PROGRAM:
        return facts
    versions = facts.get("versions")
    is_run = "command" in facts and isinstance(versions, dict) and PROGRAM in versions
    is_scene = {"scene", "projection", "depth_near_m"} <= facts.keys()
    is_ours_of_before = isinstance(facts.get("meaning"), dict) and (is_run or is_scene)  # sets that name no program
    return facts if is_ours_of_before else {}


def facts_beside(path: Path) -> dict[str, Any]:
    """Return what a command of ours wrote about a file; empty if the RESULT_FILE beside it is not ours, or of another name or content."""
    facts = our_facts(path.with_name(RESULT_FILE))
    if path.name not in listed(facts) or ("contents" in facts and not is_as_written(path, facts)):
        return {}
    return facts


def is_replaced(path: Path) -> bool:
    """Return True if the RESULT_FILE beside a file lists its name, with another content."""
    facts = our_facts(path.with_name(RESULT_FILE))
    return path.name in listed(facts) and not facts_beside(path)


def command_of(facts: Mapping[str, Any]) -> Any:
    """Return the command that wrote a RESULT_FILE of ours."""
    return facts.get("command", SCENE_COMMAND if "scene" in facts else None)


def listed(facts: Mapping[str, Any], entry: str = "files") -> set[str]:
    """Return the names of a result's files, without those that would lie in another folder."""
    named = facts.get(entry)
    return {name for name in named if isinstance(name, str) and Path(name).name == name} if isinstance(named, list) else set()


def known_names(facts: Mapping[str, Any]) -> set[str]:
    """Return the names of a result's files, and of those of earlier results of other commands."""
    return listed(facts) | listed(facts, "kept")


def removable(facts: Mapping[str, Any], command: Any) -> set[str]:
    """Return the files of an earlier result of the same command that have names as our commands write them."""
    if not facts or command_of(facts) != command:
        return set()
    meaning = facts.get("meaning")
    kinds = "|".join(re.escape(name) for name in meaning) if isinstance(meaning, dict) else ""
    names = [r"image\.png", r"scene\.glb", rf"({kinds})(\.png|\.npy|_preview\.png|_uncertainty\.png|_uncertainty\.npy)"]
    pattern = "|".join([*names, *([_DATA_NAME] if command == DATA_COMMAND else ())])
    return {name for name in listed(facts) if re.fullmatch(pattern, name)}


def is_as_written(path: Path, facts: Mapping[str, Any]) -> bool:
    """Return True if a file has the content with which the RESULT_FILE beside it, whose ``facts`` these are, lists it.

    RESULT_FILEs of earlier versions list names only. They were renamed last: a file that is younger than they are was put there or
    changed since, or copied to there after them, and is taken for its user's.
    """
    if path.name not in known_names(facts) or not path.is_file():
        return False
    try:
        if "contents" in facts or UNFINISHED in facts:
            return of_content(path) in {_content(facts, entry, path.name) for entry in ("contents", UNFINISHED)}
        return changed_ns(path) <= changed_ns(path.with_name(RESULT_FILE))
    except OSError:
        return False


def changed_ns(path: Path) -> int:
    """Return when a file was last written, renamed or copied to its place. Raises: OSError."""
    facts = os.stat(path)
    return max(facts.st_mtime_ns, facts.st_ctime_ns)


def _content(facts: Mapping[str, Any], entry: str, name: str) -> Any:
    contents = facts.get(entry)
    return contents.get(name) if isinstance(contents, dict) else None
