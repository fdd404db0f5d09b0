"""What docs/how-to/store.md shows runs as it stands, from the first line to the last."""

from __future__ import annotations

import re
from collections import OrderedDict

import pytest
import torch
from torch import nn

import layout
from fractionate.data.examples import Examples
from fractionate.store import Store, verify


def blocks(name):
    return re.findall(r"```python\n(.*?)```", layout.page(name), re.DOTALL)


@pytest.fixture
def names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    data = Examples(torch.rand(96, 1, 8, 8), torch.arange(96) % 80)  # enough classes for top-64
    networks = [
        nn.Sequential(OrderedDict(flat=nn.Flatten(), hidden=nn.Linear(64, 16), last=nn.Linear(16, 80)))
        for _ in range(2)
    ]
    return {"teacher": networks[0], "student": networks[1], "data": data}


def test_the_examples_of_the_store_run_in_order(names, capsys):
    pytest.importorskip("pyarrow")
    pytest.importorskip("fsspec").filesystem("memory").store.clear()  # other tests of this process write there too
    for block in blocks("store"):
        exec(block, names)
    assert Store.open("runs/store").complete and verify("runs/store").whole
    assert "top-k 64 float16" in capsys.readouterr().out


def test_the_example_of_the_errors_runs(names, capsys):
    for block in blocks("errors"):
        exec(block, names)
    assert capsys.readouterr().out == "FR200 2 run collect first\n"
