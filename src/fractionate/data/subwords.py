"""SentencePiece vocabularies, and sentence pairs as an encoder-decoder takes them: numbers, padded batch by batch."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from fractionate.data.labels import IGNORED
from fractionate.data.translation import Pairs
from fractionate.errors import ConfigError, MismatchError, extra
from fractionate.system.atomic import write_file
from fractionate.system.files import existing_file

PAD, UNKNOWN, END = 0, 1, 2  # the pad also starts a decoder, as in Marian


@dataclass(frozen=True, eq=False, repr=False)
class Subwords:
    """A SentencePiece model (Kudo and Richardson, arXiv 1808.06226) with pad 0, unknown 1 and end of sentence 2."""

    model: bytes

    @classmethod
    def learned(cls, texts: Sequence[str], size: int) -> Subwords:
        """Learn byte-pair subwords of some texts, of both languages for a joint vocabulary; the same texts give the same subwords.

        Raises `ConfigError` where the texts do not hold so many subwords.
        """
        library = _library()
        written = io.BytesIO()
        try:
            library.SentencePieceTrainer.train(
                sentence_iterator=iter(texts), model_writer=written, vocab_size=size, model_type="bpe",
                character_coverage=0.9998, pad_id=PAD, unk_id=UNKNOWN, eos_id=END, bos_id=-1, num_threads=1,
                minloglevel=2,
            )  # fmt: skip
        except RuntimeError as error:
            raise ConfigError(
                f"{len(texts):,} texts do not give {size:,} subwords",
                got=str(error).splitlines()[-1],
                fix="a smaller vocabulary, or more text",
            ) from error
        return cls(written.getvalue())

    @classmethod
    def read(cls, path: Path | str) -> Subwords:
        """Read a `.model` file. Raises `ConfigError` where there is none."""
        return cls(existing_file(path).read_bytes())

    def save(self, path: Path | str) -> None:
        """Write the `.model` file, whole or not at all."""
        write_file(path, self.model)

    @cached_property
    def _processor(self) -> Any:
        try:
            return _library().SentencePieceProcessor(model_proto=self.model)
        except RuntimeError as error:
            raise MismatchError(
                "this is no SentencePiece model",
                expected="the bytes of a .model file",
                got=f"{len(self.model):,} bytes",
            ) from error

    def __len__(self) -> int:
        return int(self._processor.get_piece_size())

    def __repr__(self) -> str:
        return f"Subwords({len(self):,}, {self.fingerprint[:12]})"

    @property
    def fingerprint(self) -> str:
        """sha256 of the model."""
        return hashlib.sha256(self.model).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Numbers of the subwords of each text, without its end."""
        found: list[list[int]] = self._processor.encode(list(texts))
        return found

    def decode(self, tokens: Int[Tensor, "sentences tokens"] | Sequence[Sequence[int]]) -> list[str]:
        """The texts of rows of numbers: up to the first end, pads left out."""
        rows = tokens.tolist() if isinstance(tokens, Tensor) else tokens
        cut = [[t for t in row[: row.index(END) if END in row else None] if t > UNKNOWN] for row in map(list, rows)]
        texts: list[str] = self._processor.decode(cut)
        return texts


def _library() -> Any:
    with extra("sequences", "subword vocabularies need sentencepiece"):
        import sentencepiece
    return sentencepiece


def check_subwords(student: Subwords, teacher: Subwords) -> None:
    """Raise `MismatchError` unless two models have the same subwords: word-level distillation compares their numbers."""
    if student.fingerprint != teacher.fingerprint:
        raise MismatchError(
            "student and teacher cut sentences into different subwords",
            expected=f"one vocabulary: the teacher's {teacher!r}",
            got=f"the student's {student!r}",
            fix="give the student the teacher's subwords; with its own, only sequence-level distillation is left",
        )


@dataclass(frozen=True, eq=False, repr=False)
class Sentences:
    """Pairs as an encoder-decoder reads them, a map-style data set: pass `loader()` to `distill`.

    An item holds `input_ids`, `decoder_input_ids` (the target after a pad) and `labels` (the target and its end). `of` encodes
    pairs of texts, and leaves out those with an empty side and those longer than `longest` subwords on a side, ends counted.

    Args:
        sources: Subword ids of each source, with the end.
        targets: The same of each target.
        texts: The pairs of texts.
        empty: How many pairs had an empty side.
        long: How many were too long.

    Raises:
        MismatchError: by `of`, where nothing is left.
    """

    sources: tuple[tuple[int, ...], ...]
    targets: tuple[tuple[int, ...], ...]
    texts: tuple[tuple[str, str], ...] = ()
    empty: int = 0
    long: int = 0

    @classmethod
    def of(cls, pairs: Pairs | Sequence[tuple[str, str]], subwords: Subwords, *, longest: int = 64) -> Sentences:
        """Encode pairs of texts."""
        texts = [(p.source, p.target) for p in pairs.pairs] if isinstance(pairs, Pairs) else list(pairs)
        encoded = zip(subwords.encode([s for s, _ in texts]), subwords.encode([t for _, t in texts]), strict=True)
        kept, empty, long = [], 0, 0
        for text, (source, target) in zip(texts, encoded, strict=True):
            if not (source and target):
                empty += 1
            elif max(len(source), len(target)) >= longest:
                long += 1
            else:
                kept.append((text, (*source, END), (*target, END)))
        if not kept:
            raise MismatchError(
                "no sentence pair is left", expected=f"pairs of 1 to {longest - 1} subwords on each side",
                got=f"{empty} with an empty side, {long} too long",
                fix="raise longest= to what the models take, or check the pairs",
            )  # fmt: skip
        return cls(
            tuple(s for _, s, _ in kept), tuple(t for _, _, t in kept), tuple(t for t, _, _ in kept), empty, long
        )

    def __len__(self) -> int:
        return len(self.sources)

    def __repr__(self) -> str:
        return f"Sentences({len(self):,}; left out: {self.empty} empty, {self.long} too long)"

    def __getitem__(self, place: int) -> dict[str, tuple[int, ...]]:
        target = self.targets[place]
        return {"input_ids": self.sources[place], "decoder_input_ids": (PAD, *target[:-1]), "labels": target}

    def loader(self) -> torch.utils.data.DataLoader[Any]:
        """These sentences with the function that pads a batch, as `distill` takes them; it sets order and batch size itself."""
        return torch.utils.data.DataLoader(self, collate_fn=padded)  # type: ignore[arg-type]  # map-style by its methods


def padded(items: list[dict[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    """A batch as long as its longest sentence; pads carry no attention and no label."""
    # lists are filled up before they become one tensor: 64 small tensors would take longer than a small student's step
    longest = {name: max(len(item[name]) for item in items) for name in items[0]}
    batch = {
        name: torch.tensor([[*item[name], *[fill] * (longest[name] - len(item[name]))] for item in items])
        for name, fill in (("input_ids", PAD), ("decoder_input_ids", PAD), ("labels", IGNORED))
    }
    lengths = torch.tensor([len(item["input_ids"]) for item in items])
    batch["attention_mask"] = (torch.arange(longest["input_ids"]) < lengths[:, None]).long()
    return batch
