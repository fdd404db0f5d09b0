"""What a fuzzer puts into files and settings: hostile text, odd values, accidents of bytes. Used by `fuzz_run_files.py`."""

from __future__ import annotations

import random
from typing import Any

TOKENS = (
    "!!str ", "!!python/object/apply:os.system ", "! ", "&a ", "*a", "<<: ", "---\n", "...\n", "%YAML 1.1\n", "\t", "\r", "\r\n",
    "\x00", "\x1b[31m", "\x07", "\x7f", "\x85", "\u2028", "\u202e", "\ufeff", "\U000e0041", '"\\uD800"', '"\\x00"',
    '"\\e]0;x\\a"', "? ", ": ", "- ", "| ", "> ", "# ", ", ", "[", "]", "{", "}", "(", ")", "'", '"', "`", "@", "%", "~", "null",
    "true", "no", ".nan", ".inf", "-.inf", "1e999", "-1", "0", "0x", "0xff", "0o8", "1_000", "12:30:45", "2020-01-01", "9" * 30,
    "9" * 5000, "0." + "3" * 400, "[" * 30, "{" * 30, "NaN", "Infinity", "\\", "\n", "\n  ", "a: 1\n", "name: ", "seed: ",
    "data: ", "study: ", "$HOME/", "~/", "../", "https://", "kd-topk(3)", "ls(0.1)", "mlp(8)", "os:system", "x" * 3000, "é", "数",
    "=",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 100, 2**31, 2**53 - 1, 2**63 - 1, -(2**63), 0.0, 0.5, 1.0, -0.5, 1e-300, 1e-9, 3e-3,
    1.5, 99.0, 1e9, 1e300, "", " ", "a", "kd", "hard", "ls(0.1)", "kd-topk(2)", "kd-topk(99)", "kd-sim", "instance * uniform",
    "relation", "mlp()", "mlp(2)", "mlp(2, dropout=0.5)", "linear", "cnn(2)", "bag", "timm('x')", "digits", "spam(", "nope",
    "jsd(0.5)", "forward-kl", "reverse-kl", "jsd(7)", "mse", "accuracy", "nll", "ece", "sgd", "adamw", "cosine", "constant",
    "tenths", "float16", "bfloat16", "best", "auto", "cpu", "transfer", "teaching", "a:b", "os:system", "~", "~/x", "./~x",
    "$HOME/x", "'x'", "a/b", "a\0b", "a\nb", "\x1b[31m", "\u202e", "[/]", "[red]", "<b>", "x" * 300, "x" * 20000, [], {}, ["kd"],
    ["hard", "kd"], ["kd", "kd"], ["hard"], [1], [1, 4.0], [0.5], [0.1, 1.0], [1.0, 1.0], [None], [[]], [True], ["a"], {"a": 1},
    {"seeds": 1}, {"temperatures": [1, 2], "seeds": 1}, {"steps": 2},
)  # fmt: skip
BOUNDED = (
    "steps",
    "epochs",
    "seeds",
    "pilot_minutes",
    "tune",
    "shares",
    "cells",
)  # settings that may cost hours: kept small


def damage(whole: bytes, draw: random.Random, other: bytes = b"") -> bytes:
    """One to three accidents of a file."""
    content = bytearray(whole)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        place = draw.randrange(len(content) + 1)
        length = draw.choice((1, 1, 2, 4, 8, 64, 512))
        kind = draw.randrange(12)
        if kind == 0 and content:
            content[place % len(content)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            content[place : place + length] = draw.randbytes(length)
        elif kind == 2:
            del content[place:]
        elif kind == 3:
            del content[place : place + length]
        elif kind == 4:
            content[place:place] = content[place : place + length]
        elif kind == 5:
            content[place : place + length] = bytes(length)
        elif kind in (6, 7):
            content[place:place] = draw.choice(TOKENS).encode()
        elif kind == 8:
            digits = [at for at, byte in enumerate(content) if 48 <= byte < 58]
            if digits:
                content[draw.choice(digits)] = draw.choice(b"0123456789")
        elif kind == 9:
            content[place:] = other[draw.randrange(len(other) + 1) :]
        elif kind == 10:
            content = content + content
        elif draw.random() < 0.2:
            content = bytearray(
                draw.choice((b"", b"{}", b"[]", b"null", b"0", b"\xff\xfe", b"PK\x03\x04", b"[" * 100_000, bytes(99)))
            )
    return bytes(content)


def modest(key: str, value: Any) -> Any:
    """A value that does not let a training take hours."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and key in BOUNDED:
        return min(value, 5)
    return value[:2] if isinstance(value, list) and key == "cells" else value
