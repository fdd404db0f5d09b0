"""Records: JSON both ways for every class and every value, faults named all at once, and nothing that a page would run."""

from __future__ import annotations

import contextlib
import html.parser
import json
import math
import os
import subprocess
import sys
import types
import typing
from dataclasses import MISSING, FrozenInstanceError, fields
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fractionate.errors import ConfigError, DamagedError, ResourceError
from fractionate.records import (
    RECORDS,
    Contract,
    Diagnosis,
    Evidence,
    Finding,
    Interval,
    MetricInfo,
    Recommendation,
    Record,
    Run,
    Scores,
    Spectrum,
    Study,
    Training,
    bar,
)

finite = st.floats(allow_nan=False, allow_infinity=False)


def strategy(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field: every number there is (NaN and infinities too), every text, nested records."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Record):
        return made(hint)
    if hint is float:
        return st.floats()
    if hint in (int, bool, str, type(None)):
        return {
            int: st.integers(-(2**60), 2**60),
            bool: st.booleans(),
            str: st.text(max_size=10),
            type(None): st.none(),
        }[hint]
    if origin is Literal:
        return st.sampled_from([value for argument in arguments for value in _literals(argument)])
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(strategy(argument) for argument in arguments))
    if origin is tuple:
        assert arguments[1] is ..., hint
        return st.lists(strategy(arguments[0]), max_size=2).map(tuple)
    if origin is dict:
        # settings are what a run file can hold: where multiple types may stand, numbers are finite
        kinds = typing.get_args(arguments[1]) or (arguments[1],)
        values = st.one_of(*(finite if kind is float and len(kinds) > 1 else strategy(kind) for kind in kinds))
        return st.dictionaries(st.text(max_size=5), values, max_size=2)
    raise AssertionError(f"records hold no {hint}: teach this test, and JSON, about it")


def _literals(value: Any) -> tuple[Any, ...]:
    return typing.get_args(value) if typing.get_origin(value) is Literal else (value,)


def made(record: type[Record]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(record)
    return st.deferred(lambda: st.builds(record, **{f.name: strategy(hints[f.name]) for f in fields(record)}))


def smallest(record: type[Record]) -> Record:
    """An instance with the fewest words said."""
    given_fields = {f.name: f.type for f in fields(record) if f.default is MISSING and f.default_factory is MISSING}
    hints = typing.get_type_hints(record)
    return record(**{name: _some(hints[name]) for name in given_fields})


def _some(hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, Record):
        return smallest(hint)
    if typing.get_origin(hint) is Literal:
        return _literals(typing.get_args(hint)[0])[0]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return _some(typing.get_args(hint)[0])
    if typing.get_origin(hint) is tuple:
        return ()
    return {float: 0.5, int: 3, bool: True, str: "text"}.get(hint)


def test_every_record_is_listed() -> None:
    for name in ("Interval", "Spectrum", "Evidence", "Finding", "Recommendation", "Histogram", "Diagnosis", "Scores", "Contract",
                 "Training", "Point", "Run", "Effect", "Share", "Study"):  # fmt: skip
        assert name in {record.__name__ for record in RECORDS}


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
@given(data=st.data())
@settings(max_examples=12)
def test_json_both_ways(record: type[Record], data: st.DataObject) -> None:
    made_one = data.draw(made(record))
    for text in (made_one.to_json(), made_one.to_json(indent=None), made_one.to_json().encode()):
        again = record.from_json(text)
        assert type(again) is record
        assert repr(again) == repr(made_one), "repr tells NaN from NaN and 1 from 1.0 and True"
    json.loads(made_one.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
def test_a_record_is_frozen_shows_itself_and_has_a_schema(record: type[Record]) -> None:
    one = smallest(record)
    with pytest.raises(FrozenInstanceError):
        setattr(one, fields(record)[0].name, 1)
    assert str(one)
    assert repr(one).startswith(record.__name__)
    schema = record.json_schema()
    assert set(schema["properties"]) == {f.name for f in fields(record)}
    assert record.from_json(one.to_json()) == one
    assert record.__doc__
    assert not record.__doc__.startswith(record.__name__ + "("), "a docstring of its own"


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.__name__)
@given(data=st.data())
@settings(max_examples=5)
def test_any_record_can_be_printed(record: type[Record], data: st.DataObject) -> None:
    one = data.draw(made(record))
    assert isinstance(str(one), str)
    assert one._repr_html_()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1e308, 0.1])
def test_every_float_survives(value: float) -> None:
    one = Scores(1, 1, {"accuracy": value, "nll": value})
    again = Scores.from_json(one.to_json())
    assert repr(again) == repr(one)
    nested = Diagnosis("x", Spectrum(1.0, 1, 2, value, 0.0, 0.0, 0.0, 0.0), (), smallest(Recommendation))  # type: ignore[arg-type]
    assert repr(Diagnosis.from_json(nested.to_json())) == repr(nested)


def test_settings_keep_their_types() -> None:
    settings_ = {"a": 1, "b": 1.0, "c": True, "d": None, "e": "1", "f": "true", "g": "", "h": "NaN"}
    run = Run("kd", 0, "completed", None, 1, 1.0, 1, settings=settings_)  # type: ignore[arg-type]
    again = Run.from_json(run.to_json()).settings
    assert {k: (type(v), v) for k, v in again.items()} == {k: (type(v), v) for k, v in settings_.items()}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"low": 1, "hihg": 2}', ("high", "Field required", "hihg", "Unexpected")),
        ('{"low": "a", "high": [], "coverage": null}', ("low", "high", "coverage")),
        ('{"low": 1, "high": 2, "extra": 3, "more": 4}', ("extra", "more")),
        ("{", ("JSON",)),
        ("", ("JSON",)),
        ("[]", ("Interval",)),
        ("null", ("Interval",)),
        ('"text"', ("Interval",)),
        (b"\xff\xfe", ("Interval",)),
        ("{" * 100000, ("Interval",)),
        ('{"low": NaN, "low2": 1}', ("low2",)),
    ],
)
def test_wrong_json_names_every_fault(text: str | bytes, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        Interval.from_json(text)
    for word in words:
        assert word in str(error.value)
    assert error.value.exit_code == 2


def test_faults_deep_inside_are_named_by_their_place() -> None:
    found = Diagnosis("x", smallest(Spectrum), (smallest(Finding),), smallest(Recommendation))  # type: ignore[arg-type]
    text = found.to_json().replace('"severity": "error"', '"severity": "terrible"').replace('"distil"', '"distill"')
    with pytest.raises(ConfigError) as error:
        Diagnosis.from_json(text)
    for word in ("findings.0.severity", "recipe.distil", "recipe.distill"):
        assert word in str(error.value)


def test_one_record_is_not_another() -> None:
    for record in RECORDS:
        other = Spectrum if record is not Spectrum else Study
        with pytest.raises(ConfigError, match=f"not the JSON of a {other.__name__}"):
            other.from_json(smallest(record).to_json())


def test_saved_and_loaded(tmp_path: Path) -> None:
    one = Scores(3, 3, {"accuracy": 50.0, "nll": 0.25, "ece": math.nan})
    path = one.save(tmp_path / "scores.json")
    assert repr(Scores.load(path)) == repr(one)
    assert repr(Scores.load(str(path))) == repr(one)
    assert path.read_text(encoding="utf-8").endswith("}\n")
    assert one.save(path) == path, "an older file is replaced"
    assert [p.name for p in tmp_path.iterdir()] == ["scores.json"]


def saved_run(tmp_path: Path) -> Path:
    contract = Contract("f", "kd", "c", "s", "instance", 4.0, 0.9, "kl", True)
    run = Run("kd", 3, "completed", contract, 120, 1.25, 4242, settings={"steps": 120, "rate": 0.005, "x": None})
    return run.save(tmp_path / "run.json")


def test_a_saved_record_carries_a_digest_of_its_values(tmp_path: Path) -> None:
    path = saved_run(tmp_path)
    run = Run.load(path)
    fields = json.loads(path.read_text(encoding="utf-8"))
    assert fields["digest"].startswith("xxh3-128 ") and list(fields)[-1] == "digest"
    assert Run.from_json(path.read_text(encoding="utf-8")) == run
    path.write_text(json.dumps(dict(reversed(fields.items()))))  # another layout holds the same values
    assert Run.load(path) == run
    assert "digest" not in json.loads(run.to_json())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("4242", "4243"),
        ("0.005", "0.006"),
        ("1.25", "1.26"),
        ('"kd"', '"ls"'),
        ("null", "0"),
        ("true", "false"),
        ("xxh3-128 ", ""),
    ],
)
def test_a_changed_value_is_damage_named_by_its_file(tmp_path: Path, old: str, new: str) -> None:
    path = saved_run(tmp_path)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DamagedError, match=r"run\.json is damaged: the values are not those that were saved") as error:
        Run.load(path)
    assert f"delete this file, {path}" in str(error.value) and error.value.exit_code == 3
    with pytest.raises(DamagedError):
        Run.from_json(path.read_text(encoding="utf-8"))


def test_every_bit_of_a_saved_record_counts(tmp_path: Path) -> None:
    path = saved_run(tmp_path)
    whole, run = path.read_bytes(), Run.load(path)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with contextlib.suppress(DamagedError):
            assert Run.load(path) == run, f"byte {place}: other values"  # a blank became another
    for length in range(len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedError, match=r"run\.json"):
            Run.load(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", "3", '"x"', "[" * 100_000, "\0", "{}", '{"digest": null}', '{"digest": {"a": []}}']
)
def test_what_is_no_record_is_damage_named_by_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DamagedError, match=r"x\.json"):
        Scores.load(tmp_path / "x.json")


def test_a_record_without_a_digest_is_refused_with_the_fix(tmp_path: Path) -> None:
    path = saved_run(tmp_path)
    fields = json.loads(path.read_text(encoding="utf-8"))
    del fields["digest"]
    path.write_text(json.dumps(fields))
    with pytest.raises(DamagedError, match="it has no digest") as error:
        Run.load(path)
    assert "run the same command again" in str(error.value)
    with pytest.raises(DamagedError, match=r"run\.json is damaged: this is not the JSON of a Study"):
        Study.load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(ConfigError, match="no regular file"):
        Scores.load(tmp_path / "x.json")


def test_json_holds_nothing_that_a_terminal_acts_on(tmp_path: Path) -> None:
    text = "a\x1b[31m\x7f\x9b\u202e\u2028\U000e0041ß😀"
    run = Run(text, 0, "completed", None, 1, 1.0, 1, settings={text: text})
    for written in (run.to_json(), run.save(tmp_path / "x.json").read_text(encoding="utf-8")):
        assert all(c.isprintable() or c == "\n" for c in written) and "ß😀" in written
        assert Run.from_json(written) == run
    with pytest.raises(ConfigError, match="cannot be written as JSON"):
        Run("\ud800", 0, "completed", None, 1, 1.0, 1).to_json()


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    for missing in (tmp_path / "none.json", tmp_path, tmp_path / "file" / "x.json"):
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match="there is no Scores") as error:
            Scores.load(missing)
        assert str(missing) in str(error.value)
    with pytest.raises(ResourceError):
        smallest(Scores).save(tmp_path / "file" / "x.json")
    with pytest.raises(ResourceError):
        smallest(Scores).save(tmp_path / "nowhere" / "x.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"], "nothing half-written"


HOSTILE = "<script>alert(1)</script> & \"'> <img src=x onerror=alert(1)> \u2028 </pre>"


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)


def test_text_from_data_is_escaped_in_notebooks() -> None:
    finding = Finding(
        HOSTILE, "error", 0.0, HOSTILE, HOSTILE, HOSTILE, (Evidence(HOSTILE, 1.0, HOSTILE),), examples=(HOSTILE,)
    )
    recipe = Recommendation(True, HOSTILE, 1.0, 0.5, HOSTILE, True, HOSTILE)
    study = Study(HOSTILE, (MetricInfo(HOSTILE, HOSTILE, "more", 1.0),), HOSTILE, (HOSTILE,), (0,), (), ())
    diagnosis = Diagnosis(HOSTILE, smallest(Spectrum), (finding,), recipe)  # type: ignore[arg-type]
    contract = Contract(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1.0, 0.5, HOSTILE, True)
    for record in (finding, recipe, study, diagnosis, contract):
        page = record._repr_html_()
        tags = Tags()
        tags.feed(page)
        assert not {"script", "img"} & set(tags.seen), page
        assert "&lt;script&gt;" in page
        assert type(record).from_json(record.to_json()) == record


def test_what_people_read_first() -> None:
    spectrum = Spectrum(4.0, 1200, 10, 1.0, 0.25, 0.5, 0.125, 0.125)
    assert spectrum.total_nats == 2.0
    assert "2.000 nats an example at temperature 4 (1,200 examples, 10 classes)" in str(spectrum)
    assert "50%" in str(spectrum)
    assert str(Spectrum(1.0, 1, 2, 0.0, 0.0, 0.0, 0.0, 0.0)), "nothing known is no division by zero"
    assert bar(0.5, 10) == "█████"
    assert bar(-1.0) == ""
    assert bar(2.0, 4) == "████"
    assert str(Recommendation(False, "kd", 1.0, 0.5, "cross-entropy", True, "the teacher is worse")).startswith(
        "do not distil"
    )
    warning = Finding("b", "warning", 0.2, "s", "c", "f")
    error = Finding("a", "error", 0.9, "s", "c", "f")
    fine = Finding("c", "ok", 1.0, "s", "c", "f")
    diagnosis = Diagnosis("t", spectrum, (fine, warning, error), smallest(Recommendation))  # type: ignore[arg-type]
    assert diagnosis.problems == (error, warning)


def test_training_counts_steps() -> None:
    assert Training(steps=7).steps_for(1000) == 7
    assert Training(epochs=2, batch_size=64).steps_for(100) == 4
    assert Training(epochs=0.001, batch_size=64).steps_for(10) == 1
    assert Training(batch_size=10).steps_for(95) == 300


def test_records_need_no_torch() -> None:
    """Loaded next to a package that imports nothing, as the command line may do."""
    program = (
        "import sys, types; package = types.ModuleType('fractionate'); package.__path__ = ['src/fractionate'];"
        "sys.modules['fractionate'] = package; import fractionate.records.kinds; sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
