"""A short sample of `bench/fuzz_store.py`: damaged and forged files give the right values or a typed error, in bounded memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.fuzz_store import FORMS, TARGETS, Bench, peak
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fractionate.system.atomic import os as durable_os


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(durable_os, "fsync", lambda _: None)  # waiting for the disk finds nothing
    made = Bench(Path(tmp_path_factory.mktemp("fuzz")))
    for target in TARGETS.values():
        target(made, b"\x00\x01\x00")  # what is loaded once is not counted
    made.peak = peak()
    yield made
    patch.undo()


INPUTS = st.builds(
    lambda form, way, content: bytes([form, way]) + content,
    st.integers(0, len(FORMS) - 1),
    st.integers(0, 3),
    st.one_of(
        st.binary(max_size=60),
        st.builds(  # a field of a manifest, and a value
            lambda at, value: bytes([at]) + str(value).encode(),
            st.integers(0, 30),
            st.sampled_from([-1, 0, 1, 2**31, 10**30, "1e400", '"../x"', "null", "[]", "{}", "[[1]]", '"a"', "true"]),
        ),
    ),
)


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@example(content=b"\x05\x03I\xe8\xa6\xdb\x02e\x1a\x99\xc33\x00\x00\x00+D\x9a\xabQ\r")  # offsets that fall
@example(content=b"")
@given(content=INPUTS)
def test_readers_meet_hostile_files_with_values_or_typed_errors(bench, target, content):
    outputs = TARGETS[target](bench, content)
    assert outputs.split(",")[0] in ("read", "refused", "unchanged")
