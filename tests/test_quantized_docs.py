"""The program on the page about quantized students runs as it stands there."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from encoders import transformers

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "quantized.md"


def test_the_program_of_the_page_runs(tmp_path, monkeypatch, capsys):
    transformers()
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
            exec(compile(block, str(PAGE), "exec"), names)
    assert "torch.Size([2, 2])" in capsys.readouterr().out
    assert (tmp_path / "runs" / "packed" / "packed.safetensors").exists()
    assert "What quantization did to attention" in (tmp_path / "runs" / "quantized.html").read_text()


def test_the_terms_of_the_page_are_the_registry():
    from fractionate.losses.terms import LayerTerm, term_specs

    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name, _ in rows] == [n for n in term_specs if LayerTerm in term_specs.factory(n).__mro__]
    for name, words in rows:
        assert words == (term_specs.factory(name).__doc__ or "").splitlines()[0]
