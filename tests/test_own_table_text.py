"""The text of a table: names that look like numbers, numbers of other countries, encodings, words for nothing, long cells."""

from __future__ import annotations

import codecs
import contextlib
import csv
import json
import os
import unicodedata
from decimal import Decimal

import numpy as np
import pyarrow
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from fractionate.data.columns import MISSING
from fractionate.data.delimited import read_delimited
from fractionate.data.encoding import TableEncoding
from fractionate.data.numerals import PLAIN, Numerals
from fractionate.data.own_table import encoded_table, table
from fractionate.data.own_texts import texts
from fractionate.errors import ConfigError, DamagedError, FractionateError, MismatchError


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def labelled(path, names, rows=80, separator=","):
    """A table whose labels are these names in turn, and one column of numbers."""
    lines = [f"{names[i % len(names)]}{separator}{i % 7}" for i in range(rows)]
    return write(path, "\n".join([f"y{separator}a", *lines]) + "\n")


# --- names that look like numbers


@pytest.mark.parametrize(
    "names",
    [
        ["77", "1234567890123456001", "1234567890123456002", "1234567890123456003"],
        [str(2**64 + i) for i in range(3)],
        ["0001", "0002", "0010"],
        ["1e5", "2e5"],
        ["0x10", "0x11", "16"],
        ["+1", "-1"],
        ["1.0", "2.0"],
        ["2021-03-04", "2021-04-03"],
        ["True", "False"],
        ["1_000", "1000"],
        ["1e400", "1e401"],
        ["inf", "-inf", "1"],
        ["007", "bond"],
        ["٣", "3"],
    ],
    ids=lambda names: names[-1],
)
def test_classes_are_as_many_as_there_are_texts_and_keep_their_names(tmp_path, names):
    found = table(labelled(tmp_path / "t.csv", names), "y")
    assert sorted(found.labels.names) == sorted(names)
    rows = [line.split(",")[0] for line in (tmp_path / "t.csv").read_text().splitlines()[1:]]
    assert [found.labels.names[number] for number in found.labels.values] == rows
    parts = found.parts(seed=1)
    assert [parts.encoding.class_of({"y": name}) for name in names] == names
    again = encoded_table(tmp_path / "t.csv", parts.encoding)
    assert [again.class_names[int(number)] for number in again.labels] == rows


def test_classes_that_are_numbers_stand_in_their_order(tmp_path):
    names = ["10", "9", "-1", "100000000000000000001"]
    assert table(labelled(tmp_path / "t.csv", names), "y").labels.names == ("-1", "9", "10", "100000000000000000001")


@pytest.mark.parametrize(
    "names", [["1", "1.0", "2"], ["07", "7"], ["1e5", "100000"], ["+1", "1"], ["1.50", "1.5", "x"], ["0", "-0"]]
)
def test_one_number_in_two_spellings_is_refused(tmp_path, names):
    with pytest.raises(ConfigError, match=r"one number in more than one way(.|\n)*write them alike"):
        table(labelled(tmp_path / "t.csv", names), "y")


def test_nearly_whole_labels_are_a_quantity(tmp_path):
    with pytest.raises(ConfigError, match="is a quantity"):
        table(labelled(tmp_path / "t.csv", ["0.99999999999999999999", "2"]), "y")
    assert table(labelled(tmp_path / "t.csv", ["1e300", "2e300"]), "y").labels.names == ("1e300", "2e300")


@given(st.lists(st.integers(-(10**25), 10**25), min_size=2, max_size=6, unique=True))
def test_any_whole_numbers_are_kept_apart(tmp_path_factory, ids):
    found = table(labelled(tmp_path_factory.mktemp("ids") / "t.csv", ids), "y")
    assert list(found.labels.names) == [str(i) for i in sorted(ids)]


IDS = [9007199254740993, 9007199254740992, 3]


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array(IDS * 20, pyarrow.int64()),
        pyarrow.array(IDS * 20, pyarrow.uint64()),
        pyarrow.array([Decimal(i) for i in IDS * 20], pyarrow.decimal128(20, 0)),
        pyarrow.array([str(i) for i in IDS * 20]),
        pyarrow.array([str(i) for i in IDS * 20]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type)[:12],
)
def test_parquet_keeps_whole_numbers_apart_too(tmp_path, column):
    parquet.write_table(pyarrow.table({"y": column, "a": np.arange(60) % 7, "id": column}), tmp_path / "t.parquet")
    with pytest.raises(ConfigError, match=r"'id' is whole numbers of too many digits(.|\n)*kinds=category"):
        table(tmp_path / "t.parquet", "y")
    found = table(tmp_path / "t.parquet", "y", kinds={"id": "category"})
    assert found.labels.names == ("3", "9007199254740992", "9007199254740993")
    assert found.columns[1].categories == ("3", "9007199254740992", "9007199254740993")
    again = encoded_table(tmp_path / "t.parquet", found.parts().encoding)
    assert again.labels.tolist() == [2, 1, 0] * 20
    assert table(tmp_path / "t.parquet", "y", kinds={"id": "number"}).columns[1].kind == "number", "as it is said"


def test_a_float_column_that_holds_classes_is_met_by_whole_numbers(tmp_path):
    parquet.write_table(pyarrow.table({"y": [0.0, 1.0] * 20, "a": np.arange(40) % 7}), tmp_path / "t.parquet")
    encoding = table(tmp_path / "t.parquet", "y").parts().encoding
    assert encoding.class_names == ("0", "1")
    assert [encoding.class_of({"y": value}) for value in (1, 1.0, "1", "1.0", np.int64(1))] == ["1"] * 5


def test_codes_with_leading_zeros_are_categories(tmp_path):
    rows = [f"{i % 2},{['01067', '20095', '80331'][i % 3]},{i % 9}" for i in range(60)]
    found = table(write(tmp_path / "t.csv", "\n".join(["y,zip,a", *rows])), "y")
    assert [column.kind for column in found.columns] == ["category", "number"]
    assert found.columns[0].categories == ("01067", "20095", "80331")
    rows = [f"{i % 2},{i * 37:05}" for i in range(300)]
    path = write(tmp_path / "t.csv", "\n".join(["y,zip", *rows]))
    with pytest.raises(ConfigError, match="codes with leading zeros"):
        table(path, "y")
    assert table(path, "y", kinds={"zip": "number"}).columns[0].kind == "number"


def test_classes_and_categories_with_accents_are_one_however_they_are_spelt(tmp_path):
    forms = [unicodedata.normalize(form, name) for name in ("caf\u00e9", "th\u00e9") for form in ("NFC", "NFD")]
    rows = [f"{forms[i % 4]},{forms[i // 2 % 4]},{i % 7}" for i in range(80)]
    found = table(write(tmp_path / "t.csv", "\n".join(["y,drink,a", *rows])), "y")
    assert found.labels.names == found.columns[0].categories == ("caf\u00e9", "th\u00e9")
    encoding = found.parts().encoding
    one, other = encoding.encode([{"drink": form, "a": 1} for form in forms[:2]])
    assert torch.equal(one, other) and encoding.class_of({"y": forms[1]}) == "caf\u00e9"
    assert len(encoded_table(tmp_path / "t.csv", encoding)) == 80


def test_class_names_that_would_be_shown_alike_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="classes share a name"):
        table(labelled(tmp_path / "t.csv", ["x" * 100 + end for end in "ab"]), "y")


# --- words for nothing


@pytest.mark.parametrize("word", ["NA", "N/A", "NaN", "nan", "null", "?", "None", "NULL", "n/a", "<NA>", "-"])
def test_a_class_called_like_nothing_is_read_or_the_setting_is_named(tmp_path, word):
    path = labelled(tmp_path / "t.csv", [word, "ZA", "BW"], 60)
    lines = [json.dumps({"label": [word, "ZA", "BW"][i % 3], "text": f"text {i}"}) for i in range(60)]
    jsonl = write(tmp_path / "t.jsonl", "\n".join(lines))

    def label_table(**more):
        return table(path, "y", **more).labels.names

    def label_texts(**more):
        return texts(jsonl, **more).examples.class_names

    for read in (label_table, label_texts):
        if word in MISSING:
            with pytest.raises(ConfigError, match="20 rows have no label") as error:
                read()
            assert f"20 × {word!r}" in str(error.value)
            text = str(error.value).rpartition("missing=")[2]
            names = read(missing=json.loads(text.replace("'", '"')))
        else:
            names = read()
        assert word in names


def test_an_empty_label_is_told_as_such(tmp_path):
    path = labelled(tmp_path / "t.csv", ["", "a", "b"], 60)
    with pytest.raises(ConfigError, match=r"20 rows have no label(.|\n)*20 × an empty cell") as error:
        table(path, "y")
    assert "missing=" not in str(error.value), "there is no word to leave out"
    assert table(path, "y", missing=["-"]).labels.names == ("", "a", "b")
    with pytest.raises(ConfigError, match="missing= takes a list"):
        table(path, "y", missing="NA")


# --- numbers as other countries write them

EUROPEAN = {
    "decimal commas": ({"decimal": ","}, lambda v: f"{v:.2f}".replace(".", ",")),
    "points between thousands": (
        {"decimal": ",", "thousands": "."},
        lambda v: f"{v:,.2f}".translate(str.maketrans(",.", ".,")),
    ),
    "commas between thousands": ({"thousands": ","}, lambda v: f"{v:,.2f}"),
    "spaces": ({"decimal": ",", "thousands": " "}, lambda v: f"{v:,.2f}".translate(str.maketrans(",.", " ,"))),
    "narrow spaces": (
        {"decimal": ",", "thousands": " "},
        lambda v: f"{v:,.2f}".translate(str.maketrans(",.", "\u202f,")),
    ),
    "apostrophes": ({"thousands": "'"}, lambda v: f"{v:,.2f}".replace(",", "'")),
}


@pytest.mark.parametrize("name", EUROPEAN)
def test_numbers_of_other_countries(tmp_path, name):
    settings, shown = EUROPEAN[name]
    values = [round((i * 7919 % 1000) * 1.37 - 200 + 5000 * (i % 3), 2) for i in range(60)]
    rows = [f"{'ab'[i % 2]};{shown(value)}" for i, value in enumerate(values)]
    path = write(tmp_path / "t.csv", "\n".join(["y;x", *rows]))
    with pytest.raises(ConfigError) as error:
        table(path, "y")
    for key, mark in settings.items():
        assert f"{key}={mark!r}" in str(error.value)
    found = table(path, "y", **settings)
    assert found.columns[0].values.tolist() == pytest.approx(values)
    parts = found.parts(seed=3)
    encoding = TableEncoding.from_json(parts.encoding.to_json())
    text = encoding.encode([{"x": shown(values[int(name) - 2])} for name in parts.test.ids])
    typed = encoding.encode([{"x": values[int(name) - 2]} for name in parts.test.ids])
    assert torch.equal(text, parts.test.inputs) and torch.equal(typed, parts.test.inputs)
    again = encoded_table(path, encoding)
    assert torch.equal(again.inputs[[int(name) - 2 for name in parts.test.ids]], parts.test.inputs)


def test_few_decimal_commas_are_not_taken_for_categories(tmp_path):
    rows = [f"{'ab'[i % 2]};{['1,5', '2,5', '3'][i % 3]}" for i in range(60)]
    path = write(tmp_path / "t.csv", "\n".join(["y;x", *rows]))
    with pytest.raises(ConfigError, match=r"numbers written in another way(.|\n)*decimal=','"):
        table(path, "y")
    assert table(path, "y", kinds={"x": "category"}).columns[0].categories == ("1,5", "2,5", "3")


def test_a_comma_that_may_be_either_mark_is_told_as_both(tmp_path):
    rows = [f"{'ab'[i % 2]};{i % 7 + 1},{i % 10}00" for i in range(60)]
    path = write(tmp_path / "t.csv", "\n".join(["y;x", *rows]))
    with pytest.raises(ConfigError, match=r"decimal=',', or decimal='.', thousands=','"):
        table(path, "y")
    assert table(path, "y", thousands=",").columns[0].values[0] == 1000
    assert table(path, "y", decimal=",").columns[0].values[0] == 1.0


def test_labels_with_decimal_commas_are_a_quantity(tmp_path):
    path = labelled(tmp_path / "t.csv", ["1,5", "2,5"], separator=";")
    assert table(path, "y").labels.names == ("1,5", "2,5"), "classes are text"
    with pytest.raises(ConfigError, match="is a quantity"):
        table(path, "y", decimal=",")


@pytest.mark.parametrize(
    "settings",
    [{"decimal": ""}, {"decimal": ",,"}, {"decimal": "1"}, {"decimal": "-"}, {"decimal": ",", "thousands": ","},
     {"thousands": "."}, {"thousands": "e"}, {"thousands": 3}],
)  # fmt: skip
def test_marks_that_are_none_are_refused(tmp_path, settings):
    with pytest.raises(ConfigError):
        table(labelled(tmp_path / "t.csv", ["a", "b"]), "y", **settings)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.sampled_from([",", ".", " ", "'"]))
def test_a_number_is_read_back_whatever_its_marks(value, thousands):
    decimal = "." if thousands == "," else ","
    numerals = Numerals(decimal, thousands)
    shown = f"{value:,.6f}".translate(str.maketrans({",": thousands, ".": decimal}))
    assert numerals.number(shown) == float(f"{value:.6f}")
    assert numerals.exact(shown) == Decimal(f"{value:.6f}")
    assert numerals.number(repr(value).replace(".", decimal)) == value


@pytest.mark.parametrize(
    "cell", ["1,2,3", "1,23", ",123", "1,,234", "12,34", "1 234", "١٬٢", "1.2.3", "e5", "", "+", "1e", "--1"]
)
def test_what_is_not_grouped_as_numbers_are_is_no_number(cell):
    assert Numerals(".", ",").number(cell) is None
    assert PLAIN.number(cell) is None


@pytest.mark.parametrize(
    "cells",
    [["2021-03-04", "2021-03-05"], ["4.3.2021", "5.3.2021"], ["03/04/21", "03/05/21"], ["12:30", "13:45:10"],
     ["2021-03-04T12:00:00Z", "2021-03-05 12:00"]],
)  # fmt: skip
def test_dates_are_not_taken_for_categories(tmp_path, cells):
    rows = [f"{'ab'[i % 2]};{cells[i // 2 % 2]};{i % 7}" for i in range(60)]
    path = write(tmp_path / "t.csv", "\n".join(["y;when;a", *rows]))
    with pytest.raises(ConfigError, match=r"'when' is dates or times(.|\n)*drop=\['when'\]"):
        table(path, "y")
    assert table(path, "y", kinds={"when": "category"}).columns[0].kind == "category"
    assert len(table(path, "y", drop=["when"]).columns) == 1


# --- encodings

TEXT = "größe;y\n" + "".join(f"{i % 9};{['groß', 'klein', 'naïve'][i % 3]}\n" for i in range(60))


@pytest.mark.parametrize(
    ("encoding", "mark", "said"),
    [
        ("utf-8", b"", None), ("utf-8", codecs.BOM_UTF8, None), ("utf-16-le", codecs.BOM_UTF16_LE, None),
        ("utf-16-be", codecs.BOM_UTF16_BE, None), ("utf-32-le", codecs.BOM_UTF32_LE, None),
        ("utf-32-be", codecs.BOM_UTF32_BE, None), ("latin-1", b"", "latin-1"), ("cp1252", b"", "cp1252"),
        ("mac_roman", b"", "mac_roman"), ("utf-16-le", b"", "utf-16-le"), ("utf-16-le", codecs.BOM_UTF16_LE, "utf-16"),
        ("utf-8", codecs.BOM_UTF8, "UTF8"),
    ],
)  # fmt: skip
def test_encodings_by_mark_or_by_name(tmp_path, encoding, mark, said):
    path = tmp_path / "t.csv"
    path.write_bytes(mark + TEXT.encode(encoding))
    more = {} if said is None else {"encoding": said}
    found = table(path, "y", **more)
    assert found.labels.names == ("groß", "klein", "naïve") and found.columns[0].name == "größe"
    again = encoded_table(path, found.parts().encoding, text_encoding=said)
    assert len(again) == 60
    lines = [json.dumps({"text": f"größe {i}", "label": "äö"[i % 2]}, ensure_ascii=False) for i in range(20)]
    (tmp_path / "t.jsonl").write_bytes(mark + "\n".join(lines).encode(encoding))
    assert texts(tmp_path / "t.jsonl", **more).table.examples.class_names == ("ä", "ö")
    for name in "ab":
        (tmp_path / "d" / name).mkdir(parents=True)
        (tmp_path / "d" / name / "0.txt").write_bytes(mark + "größe".encode(encoding))
    assert texts(tmp_path / "d", **more).table.examples.columns["text"] == ("größe", "größe")


def test_another_encoding_is_told_with_its_line_and_the_setting(tmp_path):
    path = write(tmp_path / "t.csv", TEXT, "cp1252")
    for read in (lambda: table(path, "y"), lambda: texts(path, text="größe", label="y")):
        with pytest.raises(DamagedError, match=r"t.csv:1 this is not UTF-8(.|\n)*0xf6(.|\n)*encoding='cp1252'"):
            read()
    with pytest.raises(DamagedError, match=r"t.csv:1 this is not ASCII"):
        table(path, "y", encoding="ascii")
    path = tmp_path / "marked.csv"
    path.write_bytes(codecs.BOM_UTF8 + TEXT.encode())
    with pytest.raises(ConfigError, match="byte-order mark"):
        table(path, "y", encoding="cp1252")


@pytest.mark.parametrize("encoding", ["no-such", "rot13", "hex", "", "utf-8\0", 3])
def test_encodings_that_are_none_are_refused(tmp_path, encoding):
    path = labelled(tmp_path / "t.csv", ["a", "b"])
    for read in (
        lambda: table(path, "y", encoding=encoding),
        lambda: texts(path, text="a", label="y", encoding=encoding),
    ):
        with pytest.raises(ConfigError, match="encoding is not known"):
            read()


@given(
    st.binary(max_size=60),
    st.sampled_from(["utf-16", "utf-32-be", "cp1252", "shift_jis", "utf-7", "punycode", "idna", "undefined"]),
)
def test_any_bytes_in_any_encoding_are_a_table_or_a_typed_error(tmp_path_factory, content, encoding):
    path = tmp_path_factory.mktemp("bytes") / "t.csv"
    path.write_bytes(content)
    with contextlib.suppress(FractionateError):
        read_delimited(path, encoding=encoding)


# --- long cells, and settings of other kinds of files


@pytest.mark.parametrize("length", [131_072, 131_073, 1_000_000])
def test_long_cells_are_read_and_the_limit_of_the_process_is_left_alone(tmp_path, length):
    before = csv.field_size_limit()
    rows = [f'"{"word " * (length // 5 if i == 3 else 5)}",{"ab"[i % 2]}' for i in range(20)]
    path = write(tmp_path / "t.csv", "\n".join(["text,label", *rows]))
    assert len(texts(path).examples) == 20
    assert len(texts(path).table.examples.columns["text"][3]) > length - 10
    write(path, "\n".join(["text,label", *rows, '"never closed']))
    with pytest.raises(DamagedError, match=r"t.csv:22 this record cannot be read"):
        texts(path)
    assert csv.field_size_limit() == before


def test_settings_of_another_kind_of_file_are_refused(tmp_path):
    parquet.write_table(pyarrow.table({"y": ["a", "b"] * 20, "a": np.arange(40) % 7}), tmp_path / "t.parquet")
    for settings in ({"separator": ";"}, {"encoding": "utf-8"}):
        with pytest.raises(ConfigError, match="settings of text files"):
            table(tmp_path / "t.parquet", "y", **settings)
    write(tmp_path / "t.jsonl", '{"text": "a", "label": 1}\n')
    with pytest.raises(ConfigError, match="separator cannot be set for a file of JSON lines"):
        texts(tmp_path / "t.jsonl", separator=";")
    with pytest.raises(ConfigError, match="links cannot be set for a file"):
        texts(tmp_path / "t.jsonl", links=True)
    for name in "ab":
        (tmp_path / "d" / name).mkdir(parents=True)
        write(tmp_path / "d" / name / "0.txt", "some")
    with pytest.raises(ConfigError, match="separator cannot be set for a folder"):
        texts(tmp_path / "d", separator=";")


def test_json_is_no_table(tmp_path):
    for name, read in (("t.json", texts), ("t.json", read_delimited), ("t.json", lambda path: table(path, "y"))):
        with pytest.raises(ConfigError, match="is JSON"):
            read(write(tmp_path / name, '[{"text": "a", "y": 1}]'))


@pytest.mark.parametrize("read", [lambda path: table(path, "y"), texts, read_delimited])
def test_pipes_devices_and_folders_are_refused_at_once(tmp_path, read):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(ConfigError, match=r"no regular file(.|\n)*a pipe"):
        read(tmp_path / "t.csv")
    with pytest.raises(ConfigError, match=r"no regular file(.|\n)*a device"):
        read("/dev/zero")
    with pytest.raises(ConfigError, match="there is no"):
        read(tmp_path / "none.csv")


def test_what_a_later_row_lacks_is_told(tmp_path):
    rows = [f"{'ab'[i % 2]};{i},5" for i in range(60)]
    path = write(tmp_path / "t.csv", "\n".join(["y;x", *rows]))
    encoding = table(path, "y", decimal=",", kinds={"x": "number"}).parts().encoding
    for value in ("1.5", "many", True, float("inf")):
        with pytest.raises(MismatchError, match="row 0, column 'x': this is no number"):
            encoding.encode([{"x": value}])
