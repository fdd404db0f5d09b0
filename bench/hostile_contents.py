"""What `hostile_files.py` puts in the place of files: bombs, lies, pickles, special files, text that a terminal would act on."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import pickle
import random
import socket
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_bench import parquet, picture

ROWS = [[f"{n % 7}.5", f"{n * 5 % 11}", "ab"[n % 2]] for n in range(60)]
Write = Callable[[Path], None]
OTHERS = b"this,a\nthat,b\n"


def array_bytes(value: Any) -> bytes:
    made = io.BytesIO()
    np.save(made, value)
    return made.getvalue()


def npz_bytes(**arrays: Any) -> bytes:
    made = io.BytesIO()
    np.savez(made, **arrays)
    return made.getvalue()


def torch_bytes(value: Any) -> bytes:
    made = io.BytesIO()
    torch.save(value, made)
    return made.getvalue()


class Runs:
    """What runs when a pickle of it is read."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def zeros(size: int) -> bytes:
    """A zlib stream of so many zeros."""
    pack, part = zlib.compressobj(1, wbits=-15), bytes(1 << 20)
    return b"".join(pack.compress(part) for _ in range(size >> 20)) + pack.flush()


def zip_of(members: dict[str, bytes], *, claims: int | None = None, packed: bytes | None = None) -> bytes:
    """An archive; `packed` is the raw stream of each member in place of its own, `claims` the size it claims to have."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content if packed is None else packed)
    content = bytearray(made.getvalue())
    if packed is not None:
        for mark, method, size in ((b"PK\x03\x04", 8, 22), (b"PK\x01\x02", 10, 24)):
            at = content.find(mark)
            while at >= 0:
                content[at + method : at + method + 2] = struct.pack("<H", 8)
                content[at + size : at + size + 4] = struct.pack("<I", min(claims or len(packed), 2**32 - 2))
                at = content.find(mark, at + 4)
    return bytes(content)


def npy(header: str, *, version: tuple[int, int] = (1, 0), length: int | None = None, body: bytes = bytes(64)) -> bytes:
    text = header.encode("latin-1", "replace")
    size = struct.pack(
        "<H" if version == (1, 0) else "<I",
        (len(text) if length is None else length) % 2 ** (16 if version == (1, 0) else 32),
    )
    return b"\x93NUMPY" + bytes(version) + size + text + body


def tensor_file(header: Any, size: int | None = None, body: bytes = bytes(16)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, more: bytes = b"", data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + more
        + chunk(b"IDAT", data or zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


def everywhere(canary: str) -> Iterator[tuple[str, str, Write]]:
    """(kind, name, write) of what may lie in the place of any file."""
    deep = 200_000
    bomb = gzip.compress(bytes(30_000_000))
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../out"), io.BytesIO())
    contents: dict[str, bytes] = {
        "nothing": b"",
        "zeros": bytes(4096),
        "noise": random.Random(1).randbytes(4096),
        "gzip bomb": bomb,
        "a zip": zip_of({"../x": b"y"}),
        "a tar": tar.getvalue(),
        "a program": b"\x7fELF" + bytes(400),
        "a PDF": b"%PDF-1.7\n%\xe2\xe3\n",
        "a data base": b"SQLite format 3\0" + bytes(200),
        "a pointer of LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "brackets": b"[" * deep,
        "objects": b'{"a":' * deep,
        "one long line": b"x" * 5_000_000,
        "half of UTF-16": b"\xff\xfe\0\xd8",
        "a mark of UTF-32": b"\xff\xfe\0\0" + bytes(40),
    }
    contents |= {f"pickle {n}": pickle.dumps({"weight": Runs(canary)}, protocol=n) for n in (0, 2, 4)}
    for name, content in contents.items():
        yield ("pickles" if "pickle" in name else "foreign content"), name, lambda path, c=content: path.write_bytes(c)  # type: ignore[misc]

    def listening(path: Path) -> None:
        with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)

    def sparse(path: Path) -> None:
        path.touch()
        os.truncate(path, 1 << 42)

    links = {
        "a link to nothing": "gone",
        "a link to itself": "",
        "a link to /dev/zero": "/dev/zero",
        "a link to /dev/full": "/dev/full",
        "a link to a terminal": "/dev/tty",
        "a link to memory": "/proc/self/mem",
    }
    for name, to in links.items():
        yield "special files", name, lambda path, to=to: path.symlink_to(to or path)  # type: ignore[misc]
    yield "special files", "a pipe", lambda path: os.mkfifo(path)
    yield "special files", "a socket", listening
    yield "special files", "a folder", lambda path: path.mkdir()
    yield "special files", "4 TB of holes", sparse


def of_formats(canary: str) -> Iterator[tuple[str, tuple[str, ...], str, bytes, str]]:
    """(kind, readers, name, content, promise) of what attacks one format."""
    run = f"os.system('touch {canary}')"
    stream = zeros(1200 << 20)
    # arrays
    for name, made in {
        "a trillion numbers": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}"),
        "2^63 rows": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 3)}"),
        "rows below 0": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 3)}"),
        "objects": array_bytes(np.array([Runs(canary)], object)),
        "code for a header": npy(f"__import__('os').{run[3:]}"),
        "code for a shape": npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os').{run[3:]},)}}"),
        "a long header": npy("{" + "'a': 1, " * 6000 + "}"),
        "a header of 4 GB": npy("{}", version=(2, 0), length=2**32 - 1),
        "version 9": npy("{}", version=(9, 9)),
        "a cut header": npy("{'descr': '<f4'", length=60000),
        "brackets for a header": npy("[" * 9000),
        "a type of its own": npy("{'descr': '|V2000000000', 'fortran_order': False, 'shape': (3, 3)}"),
        "text for numbers": array_bytes(np.array([["a", "b", "c"]] * 30)),
        "no rows": array_bytes(np.zeros((0, 3))),
        "a single number": array_bytes(np.array(1.0)),
        "nested types": npy(
            "{'descr': " + "[('a', " * 90 + "'<f4'" + ")]" * 90 + ", 'fortran_order': False, 'shape': (3,)}"
        ),
    }.items():
        yield "npy headers", ("o.npy",), name, made, "refused"
        yield (
            "npy headers",
            ("o.npz",),
            name,
            zip_of({"logits.npy": made, "labels.npy": array_bytes(np.arange(3))}),
            "refused",
        )
    # archives
    for readers_of, inner in ((("o.npz",), "logits.npy"), (("w.pt",), "x/data/0"), (("m.skops",), "schema.json")):
        plain = {inner: b"", "labels.npy": b""}
        yield "zip bombs", readers_of, "1.2 GB of zeros", zip_of(plain, packed=stream, claims=1200 << 20), "refused"
        yield "zip bombs", readers_of, "1.2 GB declared as a byte", zip_of(plain, packed=stream, claims=1), "refused"
        yield (
            "zip bombs",
            readers_of,
            "members by the thousand",
            zip_of({f"{n}.npy": b"" for n in range(20_000)}),
            "refused",
        )
        yield "zip bombs", readers_of, "a way out", zip_of({"../../" + inner: array_bytes(np.ones((3, 3)))}), "refused"
        yield "zip bombs", readers_of, "a zip in a zip", zip_of({inner: zip_of({inner: b"x"})}), "refused"
        yield "zip bombs", readers_of, "an end of its own", b"PK\x05\x06" + bytes(18), "refused"
    # pictures
    packed = b"x\x9c" + zeros(300 << 20) + struct.pack(">I", 0)
    text = zlib.compress(bytes(50_000_000))
    chunk = struct.pack(">I", len(text) + 3) + b"zTXta\0\0" + text + struct.pack(">I", zlib.crc32(b"zTXta\0\0" + text))
    for name, content in {
        "65,535 wide and high": png(65535, 65535),
        "2^31 wide": png(2**31 - 1, 1),
        "2^31 high": png(1, 2**31 - 1),
        "20,000 wide, unfolding": png(20_000, 20_000, data=packed),
        "no width": png(0, 5),
        "depth 7": png(5, 5, depth=7),
        "colour 9": png(5, 5, colour=9),
        "texts that unfold": png(9, 9, more=chunk),
        "a wrong sum": picture()[:40] + b"x" + picture()[41:],
        "half": picture()[: len(picture()) // 2],
        "a GIF": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(60),
        "a BMP": b"BM" + bytes(16) + struct.pack("<ii", 60000, 60000) + bytes(60),
        "a JPEG": b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03" + bytes(60),
        "a TIFF": b"II*\0\x08\0\0\0\xff\xff" + bytes(90),
        "PostScript": b"%!PS-Adobe EPSF\n%%BoundingBox: 0 0 9 9\n(x) run",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "WebP": b"RIFF\xff\xff\xff\x7fWEBPVP8L" + bytes(40),
        "an icon": b"\0\0\1\0\xff\xff" + bytes(90),
        "Photoshop": b"8BPS\0\1" + bytes(90),
    }.items():
        yield "pictures", ("a/9.png",), name, content, "refused"
    # JSON, JSON lines, YAML
    big = "9" * 1_000_000
    jsons = {
        "a number of a million digits": f'{{"id": {big}, "text": {big}}}',
        "1e999": '{"id": 1e999, "logprobs": {"a": 1e999}}',
        "NaN": '{"id": NaN, "logprobs": {"a": NaN}}',
        "a lone surrogate": '{"id": "\\ud800", "text": "\\ud800"}',
        "a NUL": '{"id": "\\u0000", "text": "\\u0000"}',
        "one name twice": '{"id": 1, "id": 2, "text": "a", "text": "b"}',
        "a list": "[1, 2, 3]",
        "text": '"text"',
        "null": "null",
        "keys by the thousand": json.dumps({str(n): n for n in range(50_000)}),
        "colours": '{"id": "\\u001b[31m", "text": "\\u001b]0;x\\u0007"}',
        "lists in lists": '{"id": ' + "[" * 900 + "]" * 900 + "}",
    }
    of_json = (
        "t.jsonl",
        "x.jsonl",
        "chats.jsonl",
        "pairs.jsonl",
        "similar.jsonl",
        "queries.jsonl",
        "answers.jsonl",
        "record.json",
        "hf/config.json",
        "saved/state.json",
        "saved/dataset_info.json",
        "store/head.json",
    )
    for name, content in jsons.items():
        yield "JSON", of_json, name, content.encode(), "refused"
    laughs = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(24)
    )
    for name, content in {
        "a billion laughs": laughs,
        "an anchor": "name: &a x\nout: *a\n",
        "an anchor in itself": "name: &a [*a]\n",
        "a merge": "<<: {name: x}\n",
        "two documents": "name: x\n---\nname: y\n",
        "a tag of YAML 1.1": "%TAG ! tag:x,2000:\n---\nname: !x y\n",
        "deep": "name: " + "[" * 100_000,
        "deep blocks": "\n".join(" " * n + "a:" for n in range(3000)),
        "a key of a megabyte": "x" * 1_000_000 + ": 1\n",
        "a key that is a list": "? [a, b]\n: 1\n",
        "a name twice": "name: a\nname: b\n",
        "a NUL": "name: a\0b\n",
        "a tab": "name:\n\tx: 1\n",
        "seconds in sixties": "seed: 1:30:00\n",
        "a number of a million digits": f"seed: {big}\n",
        "out of the world": "seed: 1e999\n",
        "colours": 'name: "\\e[31m"\n',
        "backwards": 'name: "\\u202e"\n',
        "code": f"data: {{source: \"__import__('os').{run[3:]}\"}}\n",
        "a module": f"teacher: {{model: '{run}'}}\n",
        "one that is not trusted": "teacher: {model: 'os:system'}\n",
    }.items():
        yield "YAML", ("run.yaml",), name, content.encode(), "either" if name in ("colours", "backwards") else "refused"
    for tag in (
        "python/object/apply:os.system",
        "python/name:os.system",
        "python/object/new:os.system",
        "python/module:os",
        "set",
        "omap",
        "binary",
        "timestamp",
        "str",
        "int",
        "float",
        "bool",
        "null",
        "map",
        "seq",
        "pairs",
        "merge",
        "value",
        "js/function",
        "x",
    ):
        yield "YAML", ("run.yaml",), f"!!{tag}", f"name: !!{tag} [touch {canary}]\n".encode(), "refused"
    # safetensors
    one = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    for name, content in {
        "a trillion numbers": tensor_file({"logits": {**one, "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}),
        "numbers past the end": tensor_file({"logits": {**one, "data_offsets": [0, 17]}}),
        "2^63": tensor_file({"logits": {**one, "shape": [2**63], "data_offsets": [0, 2**63]}}),
        "rows below 0": tensor_file({"logits": {**one, "shape": [-4]}}),
        "shared bytes": tensor_file({"logits": one, "labels": {**one, "data_offsets": [8, 24]}}, body=bytes(24)),
        "a hole": tensor_file({"logits": {**one, "data_offsets": [4, 20]}}, body=bytes(20)),
        "a header of a terabyte": tensor_file({"logits": one}, size=10**12),
        "a header of 2^64": tensor_file({"logits": one}, size=2**64 - 1),
        "no JSON": tensor_file(b"{{{{"),
        "brackets": tensor_file(b"[" * 100_000),
        "a type unknown": tensor_file({"logits": {**one, "dtype": "Q99"}}),
        "a type that is a list": tensor_file({"logits": {**one, "dtype": ["F32"]}}),
        "no offsets": tensor_file({"logits": {"dtype": "F32"}}),
        "not UTF-8": tensor_file(b'{"\xff": 1}'),
        "a name twice": tensor_file(
            b'{"logits":' + json.dumps(one).encode() + b',"logits":' + json.dumps(one).encode() + b"}"
        ),
        "notes that are numbers": tensor_file({"__metadata__": {"a": 1}, "logits": one}),
        "tensors by the thousand": tensor_file(
            {f"{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(30_000)} | {"z": 1}
        ),
        "a cut end": tensor_file({"logits": one})[:-5],
    }.items():
        promise = "either" if name == "a name twice" else "refused"  # the library takes the last
        yield "safetensors headers", ("o.safetensors", "w.safetensors"), name, content, promise
    for name, value in {
        "an object": {"weight": Runs(canary)},
        "a bare object": Runs(canary),
        "a list": [torch.ones(2)],
        "sparse": {"a": torch.ones(4).to_sparse()},
        "without memory": {"a": torch.ones(4, device="meta")},
        "spread": {"a": torch.zeros(1).expand(10**6, 10**6)},
        "nested": {"a": {"b": torch.ones(2)}},
        "a module": torch.nn.Linear(2, 2),
    }.items():
        yield "pickles", ("w.pt",), name, torch_bytes(value), "refused"
    # Parquet
    whole = parquet(ROWS)
    for name, content in {
        "a footer of 4 GB": whole[:-8] + struct.pack("<I", 2**32 - 1) + b"PAR1",
        "a footer of nothing": whole[:-8] + struct.pack("<I", 0) + b"PAR1",
        "marks alone": b"PAR1PAR1",
        "an encrypted footer": whole[:-4] + b"PARE",
        "half": whole[: len(whole) // 2],
        "a footer of noise": whole[:-300] + random.Random(2).randbytes(292) + whole[-8:],
    }.items():
        yield "Parquet footers", ("t.parquet",), name, content, "refused"
    # tables and texts
    csv = b"a,b,c\n" + b"".join(",".join(row).encode() + b"\n" for row in ROWS)
    for name, content in {
        "a NUL": csv.replace(b"3.5", b"3\0.5", 1),
        "an open quote": csv + b'1.5,"2,a\n' + b"x" * 2_000_000,
        "quotes within": csv + b'1.5,2"2",a"b"c"\n1,"x"y,a\n',
        "a million columns": b",".join(b"c%d" % n for n in range(1_000_000)) + b"\n",
        "quotes by the thousand": csv + b'"' * 200_001,
        "rows of other lengths": csv + b"1\n1,2,3,4\n",
        "two names alike": csv.replace(b"a,b,c", b"a,a,c", 1),
        "invalid UTF-8": csv.replace(b",a\n", b",\xff\xfe\n", 1),
        "a sheet": zip_of({"xl/workbook.xml": b"<x/>"}),
    }.items():
        yield "CSV", ("t.csv",), name, content, "refused"
    for name, content in {
        "a cell of 8 MB": b"text,label\n" + b"x" * 8_000_000 + b",a\nword,b\n" + OTHERS,
        "formulas": b"text,label\n=cmd|' /C calc'!A0 x,a\n@SUM(1) y,b\n" + OTHERS,
        "colours": b"text,label\n\x1b[31mred,a\nword,b\n" + OTHERS,
        "backwards": "text,label\n\u202etxet,a\nword,b\n".encode() + OTHERS,
        "tags": b"text,label\n<script>x</script>,a\nword,b\n" + OTHERS,
    }.items():
        yield "CSV", ("x.csv",), name, content, "read" if name != "colours" else "either"
    # TMX
    unit = '<tu><tuv xml:lang="en"><seg>{}</seg></tuv><tuv xml:lang="it"><seg>b</seg></tuv></tu>'
    lol = (
        '<!DOCTYPE tmx [<!ENTITY a "lol">'
        + "".join(f'<!ENTITY {chr(98 + n)} "{(f"&{chr(97 + n)};") * 10}">' for n in range(9))
        + "]>"
    )
    shell = '<?xml version="1.0"?>{}<tmx version="1.4"><header srclang="en"/><body>{}</body></tmx>'
    for name, content in {
        "a billion laughs": shell.format(lol, unit.format("&j;")),
        "a quadratic one": shell.format(f'<!DOCTYPE tmx [<!ENTITY a "{"x" * 100_000}">]>', unit.format("&a;" * 10_000)),
        "a file outside": shell.format('<!DOCTYPE tmx [<!ENTITY a SYSTEM "file:///etc/passwd">]>', unit.format("&a;")),
        "an address": shell.format(
            '<!DOCTYPE tmx [<!ENTITY % a SYSTEM "http://127.0.0.1:9/x"> %a;]>', unit.format("a")
        ),
        "an entity nobody knows": shell.format("", unit.format("&nope;")),
        "open": shell.format("", unit.format("a"))[:-20],
        "another encoding": shell.format("", unit.format("a")).replace('"1.0"', '"1.0" encoding="x-9"'),
        "a NUL": shell.format("", unit.format("\0")),
        "no units": shell.format("", ""),
        "two roots": shell.format("", unit.format("a")) + "<x/>",
        "deep": shell.format("", "<a>" * 100_000),
    }.items():
        yield "TMX", ("pairs.tmx",), name, content.encode(), "refused"
    # folders of datasets, models of others
    for name, file in {
        "up and away": "../../../etc/passwd",
        "from the root": "/etc/passwd",
        "a device": "/dev/zero",
        "an address": "file:///etc/passwd",
        "a number": 3,
        "nothing": None,
        "itself": "state.json",
        "a NUL": "a\0b",
    }.items():
        yield (
            "state.json",
            ("saved/state.json",),
            name,
            json.dumps({"_data_files": [{"filename": file}], "_split": None, "_fingerprint": "x"}).encode(),
            "refused",
        )
        yield (
            "state.json",
            ("store/head.json",),
            name,
            json.dumps({"format": 1, "shards": [file], "path": file}).encode(),
            "refused",
        )
        yield (
            "models of others",
            ("hf/config.json",),
            name,
            json.dumps(
                {"model_type": "bert", "_name_or_path": file, "auto_map": {"AutoConfig": f"{file}--x.Y"}}
            ).encode(),
            "refused",
        )
    for name, (version, tensors, keys) in {
        "2^63 tensors": (3, 2**63, 0),
        "2^63 keys": (3, 0, 2**63),
        "version 99": (99, 1, 1),
        "a text of 2^60": (3, 0, 1),
        "nothing in it": (3, 0, 0),
        "a key cut off": (3, 1, 1),
    }.items():
        yield (
            "models of others",
            ("m.gguf",),
            name,
            b"GGUF"
            + struct.pack("<IQQ", version, tensors, keys)
            + (struct.pack("<Q", 2**60) if "2^60" in name else b""),
            "refused",
        )
    yield from ((("models of others"), ("m.onnx",), name, content, "refused") for name, content in graphs().items())
    for name, kind in {
        "a function of the system": ("posix", "system"),
        "code": ("builtins", "eval"),
        "a module": ("os", "path"),
        "a class of ours": ("fractionate.models.function", "FunctionTeacher"),
    }.items():
        schema = {
            "__class__": kind[1],
            "__module__": kind[0],
            "__loader__": "ReduceNode",
            "__reduce__": {
                "args": {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": []}
            },
            "content": {},
            "__id__": 1,
            "protocol": 2,
            "_skops_version": "0.16",
        }
        yield "models of others", ("m.skops",), name, zip_of({"schema.json": json.dumps(schema).encode()}), "refused"


def graphs() -> dict[str, bytes]:
    """ONNX programs that name files outside, claim sizes, or go deep."""
    import onnx
    from onnx import TensorProto, helper

    def program(weights: Any, *nodes: Any) -> bytes:
        given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])]
        given_back = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])]
        graph = helper.make_graph(
            nodes or [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", given, given_back, [weights]
        )
        return bytes(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
        )

    plain = helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0] * 4)
    made = {
        "half": program(plain)[:60],
        "a domain of its own": program(plain, helper.make_node("Run", ["x"], ["y"], domain="evil")),
    }
    for name, place in {
        "up and away": "../../../../etc/passwd",
        "from the root": "/etc/passwd",
        "a device": "/dev/zero",
    }.items():
        outside = onnx.TensorProto(
            name="w", data_type=TensorProto.FLOAT, dims=[2, 2], data_location=TensorProto.EXTERNAL
        )
        outside.external_data.add(key="location", value=place)
        made[f"weights {name}"] = program(outside)
    made["a trillion weights"] = program(onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[10**6, 10**6]))
    made["weights below 0"] = program(
        onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[-2, 2], raw_data=bytes(16))
    )
    return made
