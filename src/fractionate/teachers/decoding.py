"""What a translator writes: by beams or greedily; how good it is by BLEU and chrF; and as data for sequence-level distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from fractionate.data.subwords import END, PAD, Sentences, Subwords, padded
from fractionate.errors import ConfigError, MismatchError, extra
from fractionate.models.decoding import Decoding
from fractionate.models.modes import eval_mode
from fractionate.models.outputs import device_of


@dataclass(frozen=True)
class Quality:
    """How good translations are, 0 to 100, with the signatures that say exactly what was computed."""

    bleu: float
    chrf: float
    sentences: int
    bleu_signature: str
    chrf_signature: str

    def __str__(self) -> str:
        return f"BLEU {self.bleu:.2f}, chrF {self.chrf:.2f} on {self.sentences:,} sentences"


def quality(written: Sequence[str], references: Sequence[str]) -> Quality:
    """BLEU and chrF of a corpus with one reference each, by sacrebleu.

    Source: Papineni et al. (2002); Popović (2015).

    Args:
        written: The translations.
        references: One a translation.

    Returns:
        `Quality`: both from 0 to 100, with sacrebleu's signatures.

    Raises:
        MismatchError: for no sentences or numbers that differ.
        MissingExtraError: without sacrebleu.

    Example:
        from fractionate.teachers.decoding import quality

        print(quality(["the cat sat on the mat"], ["the cat sat on a mat"]))
    """
    with extra("sequences", "BLEU and chrF are sacrebleu's"):
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    if not 0 < len(written) == len(references):
        raise MismatchError(
            "translations and references do not fit", expected="as many translations as references, at least one",
            got=f"{len(written)} and {len(references)}",
        )  # fmt: skip
    bleu, chrf = BLEU(), CHRF()
    found = [metric.corpus_score(list(written), [list(references)]).score for metric in (bleu, chrf)]
    return Quality(found[0], found[1], len(written), str(bleu.get_signature()), str(chrf.get_signature()))


def translate(
    model: nn.Module,
    sentences: Sentences,
    *,
    beams: int = 4,
    longest: int = 64,
    length_penalty: float = 0.6,
    batch_size: int = 64,
) -> list[list[int]]:
    """The subwords that a Hugging Face model writes for each source, by beam search of its `generate`.

    Sentences of like length go together; the order is that of the data. The model's mode is left as it was.

    Args:
        model: An encoder-decoder with `generate`.
        sentences: The sources.
        beams: Of the search.
        longest: Subwords of a translation at most.
        length_penalty: Power of the length that the score is divided by.
        batch_size: Sentences at once.

    Returns:
        Subword ids of each translation, without the end.

    Raises:
        ConfigError: for a model without `generate`.

    Example:
        import torch
        from torch import nn
        from fractionate.data import Sentences
        from fractionate.teachers.decoding import translate

        class Copies(nn.Module):  # in place of a model of transformers
            def generate(self, input_ids, **settings):
                return torch.cat([torch.zeros(len(input_ids), 1, dtype=torch.long), input_ids], dim=1)

        print(translate(Copies(), Sentences(sources=((5, 6, 1),), targets=((7, 1),))))
    """
    if not callable(getattr(model, "generate", None)):
        raise ConfigError(
            f"{type(model).__name__} has no generate", expected="a model of transformers for beam search",
            fix="greedy(model, sentences, decoding) takes any module",
        )  # fmt: skip

    def write(batch: dict[str, Tensor]) -> Tensor:
        found: Tensor = model.generate(  # type: ignore[operator]
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], num_beams=beams,
            do_sample=False, max_length=longest, length_penalty=length_penalty, early_stopping=True,
        )  # fmt: skip
        return found[:, 1:]

    return _written(model, sentences, batch_size, write)


def greedy(
    model: nn.Module, sentences: Sentences, decoding: Decoding, *, longest: int = 64, batch_size: int = 64
) -> list[list[int]]:
    """The subwords that any translator writes for each source, the most likely one at a time."""

    def write(batch: dict[str, Tensor]) -> Tensor:
        inputs = {name: part for name, part in batch.items() if name != "labels"}
        prefix = torch.full_like(inputs["input_ids"][:, :1], PAD)
        memory = decoding.encode(model, inputs | {"decoder_input_ids": prefix}, None)
        ended = torch.zeros(len(prefix), dtype=torch.bool, device=prefix.device)
        while prefix.shape[1] < longest and not bool(ended.all()):
            outputs = decoding.decode(model, inputs | {"decoder_input_ids": prefix}, memory, prefix)[:, -1].argmax(
                dim=-1
            )
            outputs = torch.where(ended, PAD, outputs)
            ended = ended | (outputs == END)
            prefix = torch.cat([prefix, outputs[:, None]], dim=1)
        return prefix[:, 1:]

    return _written(model, sentences, batch_size, write)


def _written(model: nn.Module, sentences: Sentences, batch_size: int, write: Any) -> list[list[int]]:
    order = sorted(range(len(sentences)), key=lambda place: len(sentences.sources[place]))
    found: list[list[int]] = [[] for _ in order]
    device = device_of(model)
    with eval_mode(model):
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = {name: part.to(device) for name, part in padded([sentences[place] for place in places]).items()}
            for place, row in zip(places, _until_end(write(batch)), strict=True):
                found[place] = row
    return found


def _until_end(rows: Int[Tensor, "batch tokens"]) -> list[list[int]]:
    return [row[: row.index(END)] if END in row else row for row in rows.tolist()]


def sequence_level(
    sentences: Sentences, written: Sequence[Sequence[int]], subwords: Subwords, *, longest: int = 64
) -> Sentences:
    """The same sources with what the teacher wrote for targets: sequence-level distillation (Kim and Rush, arXiv 1606.07947).

    Sources for which it wrote nothing, or `longest` subwords and more, are left out and counted. Raises `MismatchError` where
    nothing is left.
    """
    if len(written) != len(sentences):
        raise MismatchError(
            "there is not one translation a sentence", expected=str(len(sentences)), got=str(len(written))
        )
    texts = subwords.decode(written)
    kept = [place for place, row in enumerate(written) if row and len(row) < longest]
    empty = sum(not row for row in written)
    if not kept:
        raise MismatchError(
            "the teacher wrote nothing that can be learned from", expected=f"1 to {longest - 1} subwords a sentence",
            got=f"{empty} empty, {len(written) - empty} too long", fix="read what it writes: is it trained?",
        )  # fmt: skip
    return Sentences(
        tuple(sentences.sources[place] for place in kept),
        tuple((*written[place], END) for place in kept),
        tuple((sentences.texts[place][0], texts[place]) for place in kept) if sentences.texts else (),
        empty,
        len(written) - empty - len(kept),
    )
