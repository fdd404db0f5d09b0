"""Log-probabilities from elsewhere: the forms of APIs and vLLM, aligned by id, equal to rows made by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from fractionate import Task, collect, diagnose, distill
from fractionate.data import Examples
from fractionate.errors import ConfigError, DamagedError, MismatchError, NumericsError
from fractionate.records import Training
from fractionate.store import Store, import_logprobs

NAMES = ("no", "maybe", "yes")
IDS = ("a", "b", "c", "d")
LABELS = torch.tensor([0, 1, 2, 2])
torch.manual_seed(0)
DATA = Examples(torch.randn(4, 3), LABELS, NAMES, ids=IDS)
TOP = [  # (token, log-probability): two classes, a variant of one, and a token that is no class
    [(" yes", math.log(0.5)), ("Sure", math.log(0.2)), ("no", math.log(0.2)), ("yes", math.log(0.05))],
    [(" yes", math.log(0.1)), ("maybe", math.log(0.6)), ("no", math.log(0.2)), ("maybe ", math.log(0.05))],
    [("yes", math.log(0.9)), ("no", math.log(0.04)), ("?", math.log(0.03)), ("!", math.log(0.02))],
    [("yes", math.log(0.4)), ("no", math.log(0.3)), ("maybe", math.log(0.2)), ("!", math.log(0.05))],
]


def by_hand() -> torch.Tensor:
    """Shares of the classes: what names none is left out, what is not listed goes to the class that is not."""
    listed = [[0.2, 0.05, 0.55], [0.2, 0.65, 0.1], [0.04, 0.01, 0.9], [0.3, 0.2, 0.4]]  # 0.01 = what is left of 1
    return torch.tensor([[share / sum(row) for share in row] for row in listed])


def chat(top):
    best = top[0]
    entries = [{"token": token, "logprob": number, "bytes": list(token.encode())} for token, number in top]
    content = [{"token": best[0], "logprob": best[1], "top_logprobs": entries}]
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": [{"logprobs": {"content": content}}]}


FORMS = {
    "chat": lambda name, top: {**chat(top), "custom_id": name},
    "batch": lambda name, top: {"id": "r1", "custom_id": name, "response": {"body": chat(top)}, "error": None},
    "completions": lambda name, top: {
        "custom_id": name,
        "object": "text_completion",
        "choices": [
            {"logprobs": {"tokens": [top[0][0]], "token_logprobs": [top[0][1]], "top_logprobs": [dict(top)]}},
        ],
    },
    "a mapping": lambda name, top: {"id": name, "logprobs": dict(top)},
    "with the remainder": lambda name, top: {
        "id": name,
        "logprobs": dict(top),
        "remainder": 1 - sum(math.exp(n) for _, n in top),
    },
    "a list": lambda name, top: {"id": name, "logprobs": [{"token": t, "logprob": n} for t, n in top]},
    "two lists": lambda name, top: {"id": name, "tokens": [t for t, _ in top], "logprobs": [n for _, n in top]},
    "outputs of vLLM": lambda name, top: {
        "id": name,
        "outputs": [{"logprobs": [[{"token": t, "logprob": n} for t, n in top]]}],
    },
}


def written(path: Path, lines) -> Path:
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(lines)), path)
    else:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_shares_of_the_classes(form, tmp_path) -> None:
    lines = [FORMS[form](name, top) for name, top in reversed(list(zip(IDS, TOP, strict=True)))]  # in any order
    store = import_logprobs(written(tmp_path / "a.jsonl", lines), DATA, tmp_path / "s", named="model", k=4)
    torch.testing.assert_close(store.signal().probabilities, by_hand(), rtol=1e-5, atol=1e-6)
    assert store.head.identity["outputs"] == "log-probabilities"


def test_parquet_trains_a_student_and_another_file_is_another_teacher(tmp_path) -> None:
    lines = [FORMS["a list"](name, top) for name, top in zip(IDS, TOP, strict=True)]
    store = import_logprobs(written(tmp_path / "a.parquet", lines), DATA, tmp_path / "s", named="model")
    torch.testing.assert_close(store.signal().probabilities, by_hand(), rtol=1e-5, atol=1e-6)
    student, _ = distill(nn.Linear(3, 3), DATA, store, training=Training(steps=2), show="nothing")
    assert isinstance(student, nn.Linear) and diagnose(store, data=DATA).findings
    with pytest.raises(MismatchError, match="teacher"):
        import_logprobs(written(tmp_path / "b.parquet", lines[::-1]), DATA, tmp_path / "s", named="model")


def test_many_classes_are_kept_as_top_k(tmp_path) -> None:
    names = tuple(f"c{number}" for number in range(50))
    data = Examples(torch.randn(6, 2), torch.arange(6), names)
    full = torch.log_softmax(3 * torch.randn(6, 50, generator=torch.Generator().manual_seed(1)).double(), 1)
    lines = [
        {"id": str(place), "logprobs": {names[c]: float(full[place, c]) for c in full[place].topk(5).indices.tolist()}}
        for place in range(6)
    ]
    store = import_logprobs(lines, data, tmp_path / "s", named="model", k=5)
    assert store.form.kind == "top-k" and store.form.k == 5
    for place in range(6):
        best = full[place].topk(5)
        row = torch.full((50,), math.log((1 - float(best.values.exp().sum())) / 45), dtype=torch.float64)
        row[best.indices] = best.values
        torch.testing.assert_close(store.signal().probabilities[place], row.exp().float(), rtol=1e-4, atol=1e-6)


# --- tokens --------------------------------------------------------------------------------------------------------------------

WORDS = 24
TOKENIZER = {f"w{number}": number for number in range(WORDS)}


class Language(nn.Module):
    """A causal model of nothing: logits of each token from the token before."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(WORDS, WORDS)

    def forward(self, input_ids):
        return 2 * self.table(input_ids)


def sentences() -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(3)
    found = []
    for number in range(5):
        ids = torch.randint(WORDS, (7,), generator=draw)
        labels = ids.clone()
        labels[: number % 3] = -100
        found.append({"input_ids": ids, "labels": labels})
    return found


def prompt_logprobs(ids: torch.Tensor, k: int, key=str) -> list[dict[str, dict[str, float]] | None]:
    """What vLLM gives for a prompt: the k largest and the token that stands there."""
    full = torch.log_softmax(Language()(ids).detach().double(), -1)
    found: list = [None]
    for at in range(1, len(ids)):
        others = full[at - 1].clone()
        others[ids[at]] = -torch.inf
        chosen = [*others.topk(k).indices.tolist(), int(ids[at])]
        found.append({key(c): {"logprob": float(full[at - 1, c]), "decoded_token": f"w{c}"} for c in chosen})
    return found


def task(items) -> Task:
    return Task("language-modelling", transfer=items)


@pytest.mark.parametrize("form", ["vLLM prompt", "token numbers", "completion"])
def test_tokens_equal_the_store_of_the_living_model(form, tmp_path) -> None:
    items = sentences()
    whole = collect(Language(), task(items), tmp_path / "whole", form="top-k", k=4, tokenizer=TOKENIZER)
    lines = []
    for place, item in enumerate(items):
        given = prompt_logprobs(item["input_ids"], 4)
        line = {"custom_id": str(place)}
        if form == "vLLM prompt":
            line |= {"choices": [{"prompt_logprobs": given}]}
        else:
            label = {True: lambda c: f"w{c}", False: lambda c: f"token_id:{c}"}[form == "completion"]
            kept = [at for at in range(1, 7) if item["labels"][at] != -100]
            content = [
                {
                    "token": label(int(item["input_ids"][at])),
                    "logprob": given[at][str(int(item["input_ids"][at]))]["logprob"],
                    "top_logprobs": [{"token": label(c), "logprob": e["logprob"]} for c, e in given[at].items()],
                }
                for at in kept
            ]
            line |= {"choices": [{"logprobs": {"content": content}}]}
        lines.append(line)
    store = import_logprobs(
        written(tmp_path / "t.jsonl", lines), task(items), tmp_path / "s", named="m", tokenizer=TOKENIZER, k=4
    )
    assert store.head.tokens == "next" and store.form.kind == "top-k" and len(store) == len(whole)
    one, two = store.compact_signal(), whole.compact_signal()
    assert torch.equal(one.labels, two.labels)
    torch.testing.assert_close(one.confidence, two.confidence)
    torch.testing.assert_close(one.captured, two.captured, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.dense().probabilities, two.dense().probabilities, rtol=1e-4, atol=1e-6)


def test_strings_of_tokens_are_known_as_servers_decode_them() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    from fractionate.store.logprobs import TokenNumbers

    plain = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "Ġa": 1, "Ã": 2, "ĥ": 3}, []))
    plain.decoder = tokenizers.decoders.ByteLevel()
    numbers = TokenNumbers(transformers.PreTrainedTokenizerFast(tokenizer_object=plain))
    assert [numbers(token, "x") for token in ("a", " a", "Ġa", 3)] == [0, 1, 1, 3]
    with pytest.raises(MismatchError, match="string of many tokens"):
        numbers("\ufffd", "x")
    with pytest.raises(MismatchError, match="this tokenizer lacks"):
        numbers(" b", "x")


# --- what is refused -----------------------------------------------------------------------------------------------------------


def lines_of(change=lambda lines: lines):
    return change([FORMS["a mapping"](name, top) for name, top in zip(IDS, TOP, strict=True)])


def with_first(**fields):
    return lambda lines: [{**lines[0], **fields}, *lines[1:]]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda lines: lines[1:], MismatchError, "1 examples have no answer: a"),
        (lambda lines: [*lines, {"id": "z", "logprobs": {"no": -1.0}}], MismatchError, "not in the data: z"),
        (lambda lines: [*lines, lines[0]], MismatchError, "have more than one answer: a"),
        (with_first(logprobs={"no": -1.0, "yes": -2.0}), MismatchError, "'a' has fewer entries than k"),
        (with_first(logprobs={"no": 0.5, "yes": -9, "x": -9, "y": -9}), NumericsError, "no log-probabilities"),
        (with_first(logprobs={"no": -0.1, "yes": -0.1, "x": -9, "y": -9}), NumericsError, "a sum of 1.8"),
        (with_first(remainder=0.5), NumericsError, "'remainder' contradicts"),
        (with_first(logprobs={"p": -1.0, "q": -1, "r": -9, "s": -9}), MismatchError, "names a class"),
        (with_first(logprobs=None), MismatchError, "has no log-probabilities"),
        (with_first(logprobs={"no": "often"}), MismatchError, "these are no log-probabilities"),
        (with_first(id=None), MismatchError, "no id of its example"),
        (with_first(error={"message": "rate limit"}), MismatchError, "request of example 'a' failed"),
    ],
)
def test_answers_that_do_not_fit_are_refused_and_nothing_is_left(change, error, match, tmp_path) -> None:
    with pytest.raises(error, match=match):
        import_logprobs(lines_of(change), DATA, tmp_path / "s", named="model", k=4)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ({"prompt_logprobs": prompt_logprobs(torch.arange(5), 4)}, "another number of tokens"),
        ({"prompt_logprobs": prompt_logprobs(torch.arange(7), 2)}, "fewer entries than k"),
        ({"prompt_logprobs": prompt_logprobs(torch.arange(7), 4, lambda c: str(c + 90))}, "this tokenizer lacks"),
        (
            {"logprobs": [{"token": "w9", "logprob": -1.0, "top_logprobs": [["w1", -2], ["w2", -2], ["w3", -2]]}] * 6},
            "other tokens than its answer",
        ),
    ],
)
def test_tokens_that_do_not_fit_are_refused(line, match, tmp_path) -> None:
    items = [{"input_ids": torch.arange(7), "labels": torch.arange(7)}]
    with pytest.raises(MismatchError, match=match):
        import_logprobs(
            [{"id": "0", **line}], task(items), tmp_path / "s", named="m", tokenizer=TOKENIZER, k=4
        )  # fmt: skip
    assert not (tmp_path / "s").exists()


def test_a_torn_line_a_missing_name_and_other_files_are_refused(tmp_path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(lines_of()[0]) + '\n{"id": "b", "logpr')
    with pytest.raises(DamagedError, match="line 2 is no JSON"):
        import_logprobs(tmp_path / "a.jsonl", DATA, tmp_path / "s", named="model")
    with pytest.raises(ConfigError, match="needs a name"):
        import_logprobs(lines_of(), DATA, tmp_path / "s", named="")
    (tmp_path / "a.csv").write_text("id,yes")
    with pytest.raises(ConfigError, match=r"jsonl or \.parquet"):
        import_logprobs(tmp_path / "a.csv", DATA, tmp_path / "s", named="model")
    assert isinstance(import_logprobs(lines_of(), DATA, tmp_path / "ok", named="model"), Store)
