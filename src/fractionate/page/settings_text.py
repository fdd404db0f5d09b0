"""Settings as lines of a run file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

REPEATED = re.compile(r"(\w+)\(\1\(.*\)\)")  # Classification(Classification())
PLAIN = re.compile(r"[A-Za-z_][\w.+/()-]*( [\w.+/()-]+)*")


def setting(value: object) -> str:
    """A setting as it is written in a run file; of a task its name."""
    if isinstance(value, str):
        return value.partition("(")[0] if REPEATED.fullmatch(value) else value
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


def patch_text(patch: Mapping[str, object]) -> str:
    """Dotted settings as the lines of a run file: `objective.cell` is `cell` under `objective`."""
    tree: dict[str, Any] = {}
    for key, value in patch.items():
        *parents, last = key.split(".")
        place = tree
        for parent in parents:
            if not isinstance(place.setdefault(parent, {}), dict):
                place[parent] = {}
            place = place[parent]
        place[last] = value
    return "\n".join(_yaml(tree, 0))


def _yaml(tree: Mapping[str, Any], depth: int) -> list[str]:
    lines = []
    for key, value in tree.items():
        name = key if PLAIN.fullmatch(key) else json.dumps(key)
        if isinstance(value, dict):
            lines += [f"{'  ' * depth}{name}:", *_yaml(value, depth + 1)]
        else:
            plain = not isinstance(value, str) or (
                PLAIN.fullmatch(value) and value.lower() not in ("true", "false", "null")
            )
            lines.append(f"{'  ' * depth}{name}: {setting(value) if plain else json.dumps(value)}")
    return lines
