"""Thresholds of glibc's allocator: set for a process that trains, unless its user has set them."""

from __future__ import annotations

import ctypes
import os
from types import SimpleNamespace

import pytest

from fractionate.system import allocator


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What the C library is asked to set, which here changes nothing."""
    made: list[tuple[int, int]] = []

    def mallopt(name: int, value: int) -> int:
        made.append((name, value))
        return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: SimpleNamespace(mallopt=mallopt))
    monkeypatch.setattr(os, "confstr_names", {"CS_GNU_LIBC_VERSION": 2})
    for name in allocator.OWN_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    return made


def test_both_thresholds_are_set(calls: list[tuple[int, int]]) -> None:
    assert allocator.keep_large_buffers()
    assert calls == [(-3, 256 << 20), (-1, 512 << 20)]


@pytest.mark.parametrize("name", allocator.OWN_SETTINGS)
def test_settings_of_the_environment_stay(
    calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    assert not allocator.keep_large_buffers() and not calls


def test_another_c_library_is_left_alone(calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "confstr_names", {})
    assert not allocator.keep_large_buffers() and not calls
