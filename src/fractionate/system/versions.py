"""Which fractionate, torch and Python this is, from which commit; torch itself is not imported for it."""

from __future__ import annotations

import platform
import re
from importlib.util import find_spec
from pathlib import Path

import fractionate


def package_version() -> str:
    """The version of this package."""
    return fractionate.__version__


def versions() -> str:
    """One line for a bug report."""
    commit = checkout_commit(Path(__file__).parents[3])
    parts = [f"fractionate {fractionate.__version__}" + (f" (git {commit[:12]})" if commit else "")]
    parts += [_torch(), f"Python {platform.python_version()}"]
    return ", ".join(parts)


def _torch() -> str:
    spec = find_spec("torch")
    places = list(spec.submodule_search_locations or ()) if spec else []
    file = Path(places[0]) / "version.py" if places else None
    if file is None or not file.is_file():
        return "no torch"
    text = file.read_text(encoding="utf-8")
    entries = {name: re.search(rf"^{name}\b[^=]*= *'([^']+)'", text, re.MULTILINE) for name in ("__version__", "cuda")}
    version, cuda = (found[1] if found else None for found in entries.values())
    return f"torch {version or 'unknown'}, {f'CUDA {cuda}' if cuda else 'no CUDA'}"


def checkout_commit(root: Path) -> str:
    """The commit that a folder is a checkout of; nothing for an installed package."""
    git = root / ".git"
    if not (root / "pyproject.toml").is_file() or not git.exists():
        return ""
    try:
        if git.is_file():  # a worktree: the place of its own files
            git = root / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head
        name, common = head.removeprefix("ref: "), git / "commondir"
        shared = git / common.read_text(encoding="utf-8").strip() if common.exists() else git
        loose = next((folder / name for folder in (git, shared) if (folder / name).is_file()), None)
        if loose is not None:
            return loose.read_text(encoding="utf-8").strip()
        packed = (shared / "packed-refs").read_text(encoding="utf-8").splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), "")
    except OSError:
        return ""
