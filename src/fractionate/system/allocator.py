"""The C library's allocator: which freed buffers it keeps for the next step instead of giving them back to the kernel."""

from __future__ import annotations

import ctypes
import os

MAPPED_BYTES, TRIMMED_BYTES = 256 << 20, 512 << 20
THRESHOLDS = {-3: MAPPED_BYTES, -1: TRIMMED_BYTES}  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
OWN_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_large_buffers() -> bool:
    """Let glibc reuse buffers of up to 256 MiB, and keep 512 MiB of freed ones, for the whole process; True where it does.

    By itself glibc maps each buffer above 32 MiB anew and returns it when it is freed, so that every step of a training with a
    large vocabulary has its pages zeroed again. Nothing is changed under another C library, or where the environment sets the
    allocator.
    """
    if "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}) or any(
        name in os.environ for name in OWN_SETTINGS
    ):
        return False
    library = ctypes.CDLL(None)
    taken = [library.mallopt(name, value) for name, value in THRESHOLDS.items()]
    return all(taken)
