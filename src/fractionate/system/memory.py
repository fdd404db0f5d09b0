"""How much memory is left for this process, and whether something will fit: checked before it is read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch

from fractionate.errors import ResourceError


def shown_bytes(count: float) -> str:
    """A number of bytes in words."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def available_bytes(device: torch.device) -> int | None:
    """What is left for this process on a device: the least of what the machine, its control group and `ulimit -v` allow."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    limits = [*_free_of_machine(), *_free_of_group(), *_free_of_process()]
    return min(limits) if limits and device.type == "cpu" else None


def _free_of_machine() -> Iterable[int]:
    info = Path("/proc/meminfo")
    if info.exists():
        lines = dict(line.split(":", 1) for line in info.read_text(encoding="ascii").splitlines())
        yield int(lines["MemAvailable"].split()[0]) * 1024


def _free_of_group() -> Iterable[int]:
    group = Path("/sys/fs/cgroup")
    try:
        most = (group / "memory.max").read_text(encoding="ascii").strip()
        if most != "max":
            yield int(most) - int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return


def _free_of_process() -> Iterable[int]:
    try:
        import resource
    except ImportError:  # no such limits on this system
        return
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    size = Path("/proc/self/statm")
    if most != resource.RLIM_INFINITY and size.exists():
        yield most - int(size.read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")


def require_bytes(needed: float, what: str, *, fix: str) -> None:
    """Raise `ResourceError`, before anything is allocated, where something would take more memory than there is."""
    free = available_bytes(torch.device("cpu"))
    if free is not None and needed > free:
        raise ResourceError(
            f"{what} does not fit into memory",
            expected=f"at most {free:,} bytes ({shown_bytes(free)}), which are free",
            got=f"{int(needed):,} bytes ({shown_bytes(needed)})",
            fix=fix,
        )
