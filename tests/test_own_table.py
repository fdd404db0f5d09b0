"""A person's own tables: real ones (wines, irises, tumours), what is learned from which rows, and files that are none."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch
from hypothesis import given
from hypothesis import strategies as st

from fractionate.data.bundled import Undivided, data_sets
from fractionate.data.delimited import read_delimited
from fractionate.data.encoding import TableEncoding
from fractionate.data.numerals import PLAIN
from fractionate.data.own_table import encoded_table, table
from fractionate.errors import ConfigError, DamagedError, FractionateError, MismatchError, NumericsError, ResourceError
from fractionate.models.names import find_parts
from fractionate.records import Training
from fractionate.training import distill

BUNDLED = Path(sklearn.datasets.__file__).parent / "data"
IRIS = ("sepal length", "sepal width", "petal length", "petal width", "kind")


@pytest.fixture
def wine(tmp_path):
    """178 wines (UCI, Aeberhard and Forina 1991) with two columns of words made of their numbers, and a gap."""
    frame = sklearn.datasets.load_wine(as_frame=True).frame
    frame["target"] = [f"grape {number}" for number in frame["target"]]
    frame["strength"] = ["strong" if alcohol > 13 else "light" for alcohol in frame["alcohol"]]
    frame["bright"] = frame["hue"] > 1
    frame.loc[3:40, "ash"] = None
    frame.to_csv(tmp_path / "wine.csv", index=False)
    frame.to_parquet(tmp_path / "wine.parquet")
    return frame


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


def test_irises_from_the_file_that_scikit_learn_brings(tmp_path):
    rows = (BUNDLED / "iris.csv").read_text().splitlines()[1:]
    read = table(write(tmp_path / "iris.csv", "\n".join([",".join(IRIS), *rows])), "kind")
    assert isinstance(read, Undivided)
    parts = read.parts(transfer=60, validation=30, test=40, seed=1)
    assert [len(p) for p in (parts.transfer, parts.validation, parts.test, parts.teaching)] == [60, 30, 40, 20]
    assert parts.encoding.features == IRIS[:4]
    assert parts.transfer.class_names == ("0", "1", "2")
    torch.testing.assert_close(parts.transfer.inputs.mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(parts.transfer.inputs.std(0, correction=0), torch.ones(4))
    raw = {str(line): [float(cell) for cell in row.split(",")] for line, row in enumerate(rows, 2)}
    for part in (parts.validation, parts.test):
        for place, name in enumerate(part.ids):  # an id is the line of the file
            back = part.inputs[place].double() * torch.tensor([c.deviation for c in parts.encoding.columns])
            back += torch.tensor([c.mean for c in parts.encoding.columns])
            torch.testing.assert_close(back, torch.tensor(raw[name][:4], dtype=torch.float64), rtol=1e-5, atol=1e-5)
            assert int(part.labels[place]) == raw[name][4]
    _, run = distill(
        torch.nn.Linear(4, 3), parts.transfer, training=Training(steps=150, learning_rate=0.05), test=parts.test
    )
    assert run.test.accuracy > 0.85


@pytest.mark.parametrize("file", ["wine.csv", "wine.parquet"])
def test_kinds_and_gaps_of_a_mixed_table(tmp_path, wine, file):
    parts = find_parts(f"table({str(tmp_path / file)!r}, label='target')", transfer=60, validation=40, test=40, seed=0)
    kinds = {column.name: column.kind for column in parts.encoding.columns}
    assert kinds == {
        name: "category" if name in ("strength", "bright") else "number" for name in wine.columns.drop("target")
    }
    assert "ash missing" in parts.encoding.features
    assert parts.encoding.features[-4:-2] == ("strength=light", "strength=strong")
    inputs = dict(zip(parts.encoding.features, parts.transfer.inputs.T, strict=True))
    gone = inputs["ash missing"] == 1
    assert 5 < int(gone.sum()) < 25
    assert bool((inputs["ash"][gone] == 0).all())
    # what a deployed student is fed: rows as Python has them, through the record as a file has it
    again = TableEncoding.from_json(parts.encoding.to_json())
    first = 2 if file.endswith("csv") else 0
    rows = [wine.iloc[int(name) - first].to_dict() for name in parts.test.ids]
    assert torch.equal(again.encode(rows), parts.test.inputs)


def test_csv_and_parquet_give_the_same_numbers(tmp_path, wine):
    one, other = (table(tmp_path / file, "target").parts(seed=3) for file in ("wine.csv", "wine.parquet"))
    for name in ("transfer", "validation", "test", "teaching"):
        assert torch.equal(getattr(one, name).inputs, getattr(other, name).inputs)
        assert torch.equal(getattr(one, name).labels, getattr(other, name).labels)


@given(st.integers(0, 50), st.sampled_from([1e6, -5.0]))
def test_what_lies_outside_of_the_transfer_part_does_not_reach_it(seed, shift):
    """No leak: other values in validation and test change neither the encoding nor what the student learns from."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=60)
    words = rng.choice(["red", "green", "blue"], 60)

    def made(numbers, words):
        text = "x,w,y\n" + "\n".join(f"{x},{w},{i % 2}" for i, (x, w) in enumerate(zip(numbers, words, strict=True)))
        with tempfile.TemporaryDirectory() as folder:
            return table(write(Path(folder) / "t.csv", text), "y").parts(transfer=20, validation=20, test=20, seed=seed)

    before = made(numbers, words)
    outside = np.array(sorted(int(i) - 2 for part in (before.validation, before.test) for i in part.ids))
    numbers, words = numbers.copy(), words.astype("<U9").copy()
    numbers[outside] += shift
    words[outside] = "never"
    after = made(numbers, words)
    assert after.encoding == before.encoding
    assert torch.equal(after.transfer.inputs, before.transfer.inputs)
    places = [after.encoding.features.index(f) for f in after.encoding.features if f.startswith("w=")]
    assert float(after.test.inputs[:, places].abs().sum()) == 0, "a category that was never seen is 0 everywhere"


def test_constant_in_the_transfer_part_is_nothing_everywhere(tmp_path):
    rows = [f"{i % 2},{5 if i < 55 else i * 1000},{i / 7}" for i in range(60)]
    found = table(write(tmp_path / "t.csv", "\n".join(["y,x,z", *rows])), "y")
    for seed in range(20):
        parts = found.parts(transfer=10, validation=10, test=10, seed=seed)
        if parts.encoding.columns[0].deviation == 0:
            assert not parts.test.inputs[:, 0].any()
            return
    pytest.fail("no seed leaves x constant")


def test_another_table_for_a_student_that_is_there(tmp_path, wine):
    wine.iloc[120:130].to_csv(tmp_path / "new.csv", index=False)  # one class, and not bright, all of them
    wine.iloc[120:130].to_parquet(tmp_path / "new.parquet")
    parts = table(tmp_path / "wine.csv", "target").parts()
    known = {
        int(name): row for part in (parts.transfer, parts.test) for name, row in zip(part.ids, part.inputs, strict=True)
    }
    for file, first in (("new.csv", 2), ("new.parquet", 0)):
        new = encoded_table(tmp_path / file, parts.encoding)
        assert new.class_names == ("grape 0", "grape 1", "grape 2")
        assert new.labels.tolist() == [1] * 10
        there = [(row, known[122 + int(name) - first]) for name, row in zip(new.ids, new.inputs, strict=True)
                 if 122 + int(name) - first in known]  # fmt: skip
        assert there and all(torch.equal(one, other) for one, other in there)
    wine["target"] = "grape 7"
    wine.to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(MismatchError, match=r"classes the student does not know(.|\n)*grape 7"):
        encoded_table(tmp_path / "other.csv", parts.encoding)
    with pytest.raises(MismatchError, match="row 0, column 'alcohol': there is no such value"):
        parts.encoding.encode([{"ash": 3}])
    with pytest.raises(MismatchError, match="row 0, column 'alcohol': this is no number"):
        parts.encoding.encode([{"alcohol": "=cmd()", "ash": 3}])


def test_european_and_windows_files(tmp_path):
    text = '\ufeffname;size;kind\r\n"a;b";1.5;yes\r\n\r\n"c ""d""";2.5;no\r\n"two\r\nlines";3;yes\r\nx;4;no\r\n'
    read = read_delimited(write(tmp_path / "t.csv", text))
    assert read.cells == {"name": ["a;b", 'c "d"', "two\r\nlines", "x"], "size": ["1.5", "2.5", "3", "4"],
                          "kind": ["yes", "no", "yes", "no"]}  # fmt: skip
    assert read.lines == (2, 4, 5, 7)
    assert read_delimited(write(tmp_path / "t.tsv", "a\tb\n1,5\t2\n")).cells == {"a": ["1,5"], "b": ["2"]}


def rows_of(cells, names=("x", "y")):
    return "\n".join([",".join(names), *(",".join(map(str, row)) for row in cells)])


GOOD = [(i * 1.5, i % 2) for i in range(20)]


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        (b"", {}, ConfigError, "is empty"),
        (b"\xef\xbb\xbf", {}, ConfigError, "is empty"),
        ("x,y\n", {}, ConfigError, "a header and no rows"),
        ("x,x,y\n1,2,3\n", {}, ConfigError, r"t.csv:1 columns share a name(.|\n)*'x'"),
        ("x,y\n1,2\n1,2,3\n", {}, DamagedError, r"t.csv:3 this row does not fit(.|\n)*2 cells(.|\n)*3 cells"),
        ("x,y\n1,2\n1\n", {}, DamagedError, r"t.csv:3"),
        ('x,y\n1,2\n"1,2\n3,4\n', {}, DamagedError, r"t.csv:3 this record cannot be read"),
        ('x,y\n1,2\n"1"z,2\n', {}, DamagedError, r"t.csv:3 this record"),
        (b"x,y\n1,2\n\xff,2\n", {}, DamagedError, r"t.csv:3 this is not UTF-8(.|\n)*0xff"),
        ("x,y\n1,2\n".encode("utf-16-le"), {}, DamagedError, r"NUL characters(.|\n)*encoding='utf-16-le'"),
        ("x,y\n1,2\n".encode("utf-16") + b"3", {}, DamagedError, "t.csv:3 this is not UTF-16"),
        (b"\x1f\x8b\x08\x00" + b"\xff" * 40, {}, DamagedError, "compressed"),
        (b"PK\x03\x04" + b"\xff" * 40, {}, DamagedError, r"zip archive(.|\n)*CSV"),
        ("x,y\n" + "9" * 200_000 + ",1\n", {}, ConfigError, "a single class"),
        ('x,y\n1,2\n"' + "9" * 200_000 + ",1\n", {}, DamagedError, "t.csv:3 this record"),
        (rows_of([*GOOD, ("oops", 1)]), {}, ConfigError, r"'x' is numbers, but 1 cells are not: .*t.csv:22 'oops'"),
        (rows_of([*GOOD, ("1e999", 1)]), {}, ConfigError, r"t.csv:22 '1e999'"),
        (rows_of([*GOOD, (3, "")]), {}, ConfigError, r"1 rows have no label: .*t.csv:22"),
        (rows_of([(i, 1) for i in (1, 3, 9)]), {}, ConfigError, "a single class"),
        (rows_of([(1, i / 3) for i in range(9)]), {}, ConfigError, "is a quantity"),
        (rows_of([(i * i, i) for i in range(30)]), {}, ConfigError, "30 different values in 30 rows"),
        (rows_of([(7, i % 2) for i in range(30)]), {}, ConfigError, r"'x' is always 7(.|\n)*drop=\['x'\]"),
        (rows_of([("same", i % 2) for i in range(30)]), {}, ConfigError, "is always 'same'"),
        (rows_of([("", i % 2) for i in range(30)]), {}, ConfigError, "'x' is empty"),
        (rows_of([(i, i % 2) for i in range(30)]), {}, ConfigError, "counts the rows"),
        (rows_of([(f"text {i}", i % 2) for i in range(30)]), {}, ConfigError, r"is text, 30 different values \(.*t.csv:2"),
        (rows_of([(f'"{i},5"', i % 2) for i in range(30)]), {}, ConfigError, r"t.csv:2 '0,5' \(decimal=',', or kinds"),
        (rows_of(GOOD), {"label": "z"}, ConfigError, r"no column 'z'(.|\n)*one of x, y"),
        (rows_of(GOOD), {"drop": ["z"]}, ConfigError, "no column 'z'"),
        (rows_of(GOOD), {"drop": "x"}, ConfigError, "drop= takes a list"),
        (rows_of(GOOD), {"drop": ["x"]}, ConfigError, "no column to learn from"),
        (rows_of(GOOD), {"drop": ["y"]}, ConfigError, "'y' is named for two things"),
        (rows_of(GOOD), {"kinds": {"x": "real"}}, ConfigError, "kinds are not known"),
        (rows_of([("a", 1), ("b", 2), ("a", 1), ("b", 2)]), {"kinds": {"x": "number"}}, ConfigError, "4 cells are not"),
        (rows_of(GOOD), {"separator": "::"}, ConfigError, "one character"),
    ],
)  # fmt: skip
def test_files_that_are_no_table_are_told_with_their_line(tmp_path, text, options, error, message):
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(error, match=message):
        table(path, **({"label": "y"} | options))


def test_every_bad_column_is_told_at_once(tmp_path):
    rows = [(i, f"note {i}", 3, i * i, "ab"[i % 2]) for i in range(40)]
    path = write(tmp_path / "t.csv", rows_of(rows, ("id", "note", "three", "size", "y")))
    with pytest.raises(ConfigError, match=r"3 columns cannot be learned from(.|\n)*drop=\['id', 'note', 'three'\]"):
        table(path, "y")
    assert table(path, "y", drop=["id", "note", "three"]).columns[0].name == "size"
    assert [c.kind for c in table(path, "y", drop=["three"], kinds={"id": "number", "note": "category"}).columns] == [
        "number", "category", "number"
    ]  # fmt: skip


def test_files_of_scikit_learn_without_a_header_are_told():
    with pytest.raises(DamagedError, match=r"wine_data.csv:2 this row does not fit the header(.|\n)*14 cells"):
        table(BUNDLED / "wine_data.csv", "class_0")
    with pytest.raises(ConfigError, match="no column 'Jumps'"):
        table(BUNDLED / "linnerud_exercise.csv", "Jumps")
    found = read_delimited(BUNDLED / "linnerud_exercise.csv", separator=" ")
    assert found.cells["Jumps"][:3] == ["60", "60", "101"]


def test_hostile_cells_are_only_text(tmp_path):
    """Formulas, control characters and format strings in names and cells: read, never run, never printed raw."""
    evil = [
        "=cmd|'/C calc'!A0",
        "\x1b]0;owned\x07\x1b[2J",
        "nul\x00nul",
        "{0.__class__}",
        "%n%n",
        "‮txt",
        "__import__('os')",
    ]
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["\x1b[31mcolour", "y"])
    writer.writerows((evil[i % len(evil)], evil[i % 2]) for i in range(70))
    path = write(tmp_path / "t.csv", stream.getvalue())
    found = table(path, "y")
    parts = found.parts()
    assert (
        parts.transfer.class_names == ("=cmd|'/C calc'!A0", "\\x1b]0;owned\\x07\\x1b[2J")
        or len(parts.transfer.class_names) == 2
    )
    assert all(name.isprintable() for name in parts.transfer.class_names)
    assert parts.transfer.inputs.shape[1] == len(evil)
    assert TableEncoding.from_json(parts.encoding.to_json()) == parts.encoding
    assert torch.equal(parts.encoding.encode([{"\x1b[31mcolour": evil[0]}])[0].sum(), torch.tensor(1.0))
    with pytest.raises(ConfigError) as caught:
        table(path, "nothing")
    assert all(line.isprintable() for line in str(caught.value).splitlines())


def test_bombs_are_refused_before_they_unfold(tmp_path, monkeypatch):
    wide = write(tmp_path / "wide.csv", ",".join(f"c{i}" for i in range(1_000_000)) + "\n")
    with pytest.raises(ResourceError, match="1,000,000 columns"):
        table(wide, "c0")
    read = write(tmp_path / "t.csv", rows_of(GOOD))
    monkeypatch.setattr("fractionate.system.memory.available_bytes", lambda device: 100)
    with pytest.raises(ResourceError, match=r"does not fit into memory(.|\n)*100 bytes(.|\n)*bytes"):
        table(read, "y")


def test_parquet_that_is_none_or_claims_too_much(tmp_path, wine):
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "wine.parquet"
    whole = path.read_bytes()
    for content in (
        b"",
        b"PAR1",
        whole[:-20],
        whole[:200] + b"\0" * 200 + whole[400:],
        b"PAR1" + b"\xff" * 100 + b"PAR1",
    ):
        with pytest.raises(FractionateError):
            table(write(tmp_path / "broken.parquet", content), "target").parts()
    many = pyarrow.table(
        {"y": pyarrow.array(np.zeros(30_000_000, np.int8)), "x": pyarrow.array(np.zeros(30_000_000, np.int8))}
    )
    parquet.write_table(many, tmp_path / "bomb.parquet", compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 500_000
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fractionate.system.memory.available_bytes", lambda device: 1 << 30)
        with pytest.raises(ResourceError, match=r"bomb.parquet does not fit(.|\n)*bytes"):
            table(tmp_path / "bomb.parquet", "y")
    with pytest.raises(DamagedError, match=r"bomb.parquet unfolds to more(.|\n)*60,000,000 cells"):
        table(tmp_path / "bomb.parquet", "y")
    dated = pyarrow.table(
        {"when": pyarrow.array([0, 1, 2, 3], pyarrow.timestamp("s")), "l": [[1], [2], [3], [4]], "y": [0, 1, 0, 1]}
    )
    parquet.write_table(dated, tmp_path / "dated.parquet")
    with pytest.raises(ConfigError, match=r"'when' holds timestamp\[ms\](.|\n)*'l' holds list"):
        table(tmp_path / "dated.parquet", "y")


def test_numbers_that_cannot_be_standardised(tmp_path):
    rows = [(f"{i + 1}e307", i % 2) for i in range(17)] + [("1.7e308", 0)] * 8
    with pytest.raises(NumericsError, match="too large"):
        table(write(tmp_path / "t.csv", rows_of(rows)), "y").parts(transfer=20, validation=2, test=2)


NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff\r"), max_size=8
)  # Python leaves a lone CR unquoted
CELLS = st.lists(st.lists(NAMES, min_size=3, max_size=3), min_size=1, max_size=8)


@given(CELLS, st.sampled_from([",", ";", "\t", "|"]), st.sampled_from(["\n", "\r\n"]))
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory, rows, separator, ending):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=separator, lineterminator=ending)
    writer.writerow(["a", "b", "c"])
    begins = []
    for row in rows:
        begins.append(len(stream.getvalue().split("\n")))
        writer.writerow(row)
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(stream.getvalue().encode())
    read = read_delimited(path, separator=separator)
    assert [list(row) for row in zip(*read.cells.values(), strict=True)] == [
        [cell.strip() for cell in row] for row in rows
    ]
    assert list(read.lines) == begins


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_a_typed_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "t.csv"
    path.write_bytes(content)
    try:
        read = read_delimited(path)
    except (ConfigError, DamagedError):
        return
    assert len({len(cells) for cells in read.cells.values()}) == 1


@given(
    st.one_of(st.floats().map(repr), st.text(max_size=6), st.integers().map(str), st.from_regex(r"[-+0-9.eE_]{1,8}"))
)
def test_a_number_is_what_python_reads_and_nothing_stranger(cell):
    found = PLAIN.number(cell)
    if found is not None:
        assert found == float(cell) and np.isfinite(found) and cell.isascii() and "_" not in cell
    elif cell.isascii() and cell == cell.strip() and "_" not in cell:
        assert not np.isfinite(_read_by_python(cell))


def _read_by_python(cell):
    try:
        return float(cell)
    except ValueError:
        return np.nan


def test_names_are_checked_without_reading_the_file():
    assert {"table", "pictures", "texts", "saved"} <= set(data_sets)
    with pytest.raises(ConfigError, match=r"missing a required argument(.|\n)*table\(path, label"):
        data_sets.check("table()")
    data_sets.check("table('nowhere.csv', label='y', kinds={'a': 'number'})")


def test_a_core_install_reads_csv(tmp_path):
    """Without pandas, pyarrow and scikit-learn; and Parquet says what to install."""
    write(tmp_path / "t.csv", rows_of(GOOD))
    code = (
        "import sys\n"
        "for name in ('pandas', 'pyarrow', 'sklearn', 'datasets', 'PIL'): sys.modules[name] = None\n"
        "from fractionate.data.own_table import table\n"
        "from fractionate.errors import MissingExtraError\n"
        "print(table('t.csv', 'y').parts())\n"
        "try: table('t.parquet', 'y')\n"
        "except MissingExtraError as error: print(error.fix)"
    )
    (tmp_path / "t.parquet").touch()
    here = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=here, capture_output=True, text=True, check=False
    )
    output = done.stdout
    assert done.returncode == 0, done.stderr
    assert output.splitlines() == [
        "Parts(t.csv: transfer 4, validation 4, test 4, teaching 8)", 'pip install "fractionate[parquet]"'
    ]  # fmt: skip


def test_a_table_that_is_not_divided_is_told_in_training(tmp_path):
    with pytest.raises(MismatchError, match=r"not examples yet(.|\n)*data.parts"):
        distill(torch.nn.Linear(1, 2), table(write(tmp_path / "t.csv", rows_of(GOOD)), "y"), training=Training(steps=1))
