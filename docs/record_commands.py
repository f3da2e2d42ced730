"""Runs every command of README.md and docs/guide.md and prints a digest of each file they write: python docs/record_commands.py OUT.json

Two recordings on one machine, of two commits (PYTHONPATH chooses the source that is run), show which results a change of the code changed:
python docs/record_commands.py --compare BEFORE.json AFTER.json names every file that is new, gone or other. Times, versions and the commit
are left out of the digests, since they differ from run to run; with --keep, the files stay in the folder OUT beside OUT.json.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
README_INPUTS = """
jointnet demo scene --seed 6 -o scene
python -c "import shutil; shutil.copy('scene/image.png', 'photo.png'); shutil.copy('scene/depth.png', 'depth.png')"
python -c "from PIL import Image; m = Image.new('L', (128, 128)); m.paste(255, (70, 20, 128, 80)); m.save('hole.png')"
python -c "from PIL import Image; d = Image.open('depth.png'); d.resize((32, 32), 0).resize((128, 128), 0).save('coarse.png')"
jointnet demo scene --num 2 -o my-data
"""
"""What README.md takes for granted: a photo, its depth, a mask, a coarse depth map, a folder of data."""

VOLATILE = {"seconds", "versions", "commit", "machine", "loss_curve"}
SHORT = {"path/to/stable-diffusion-2-1-base": "demo-base"}
TRAINING = "--steps 2 --batch-size 2 --precision float32"


def readme_commands() -> list[str]:
    """The commands of README.md that need no weights from elsewhere, with a short training."""
    fences = re.findall(r"^```([^\n]*)\n(.*?)^```$", (DOCS.parent / "README.md").read_text(), re.S | re.M)
    blocks = [content for language, content in fences if not language]
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.startswith("jointnet")]
    lines = [line for line in lines if "--base" not in line]
    for long, short in SHORT.items():
        lines = [line.replace(long, short) for line in lines]
    lines = [f"{line} {TRAINING}" if line.startswith("jointnet train") else line for line in lines]
    return [f"{line[: -len('-o out')]}-o readme{i}" if line.endswith("-o out") else line for i, line in enumerate(lines)]


def guide_commands() -> list[str]:
    """The commands of the guide's sh blocks."""
    blocks = re.findall(r"```sh(?: model=[\w-]+)?\n(.*?)```", (DOCS / "guide.md").read_text(), re.S)
    return [line for block in blocks for line in block.strip().splitlines()]


def run(commands: list[str], folder: Path) -> None:
    for command in commands:
        parts = shlex.split(command)
        parts[:1] = [sys.executable, "-m", "jointnet.cli.main"] if parts[0] == "jointnet" else [sys.executable]
        print(command, flush=True)
        subprocess.run(parts, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def digest(path: Path) -> str:
    """Of a file's bytes; of JSON what does not differ from run to run."""
    content = path.read_bytes()
    if path.suffix == ".json":
        content = json.dumps(stable(json.loads(content)), sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: stable(part) for name, part in value.items() if name not in VOLATILE}
    return [stable(part) for part in value] if isinstance(value, list) else value


def record(out: Path) -> None:
    digests: dict[str, str] = {}
    for name, commands in {"README": [*README_INPUTS.strip().splitlines(), *readme_commands()], "guide": guide_commands()}.items():
        with tempfile.TemporaryDirectory() as scratch:
            run(commands, Path(scratch))
            files = [p for p in sorted(Path(scratch).rglob("*")) if p.is_file()]
            digests |= {f"{name}/{p.relative_to(scratch)}": digest(p) for p in files}
            if "--keep" in sys.argv:
                shutil.copytree(scratch, out.with_suffix("") / name, dirs_exist_ok=True)
    out.write_text(json.dumps(digests, indent=1) + "\n")


def compare(before: Path, after: Path) -> int:
    old, new = (json.loads(path.read_text()) for path in (before, after))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            print(f"{'gone' if name not in new else 'new' if name not in old else 'other'}: {name}")
    same = sum(old.get(name) == value for name, value in new.items())
    print(f"{same} of {len(old)} files are the same")
    return int(old != new)


if __name__ == "__main__":
    if sys.argv[1] == "--compare":
        sys.exit(compare(Path(sys.argv[2]), Path(sys.argv[3])))
    record(Path(sys.argv[1]))
