"""Names of a folder that load on first use: importing one file of it does not load the others."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

IMPORT = re.compile(r"^    from (\S+) import (\w+) as \2$", re.MULTILINE)


def exports(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package, from its lines `from a import b as b` under `if TYPE_CHECKING:`.

    No name may be that of a file or folder of the package: importing the file would hide it.
    """
    spec = find_spec(package)
    source = None if spec is None or spec.loader is None else spec.loader.get_source(package)  # type: ignore[attr-defined]
    home = {name: file for file, name in IMPORT.findall(source or "")}

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(sorted(home))}")
        return getattr(import_module(home[name]), name)

    return get, lambda: sorted(home), sorted(home)
