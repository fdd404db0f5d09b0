"""What the study of translation works on: pairs of sentences, teacher and students, metrics, and the teacher's own sentences.

Sizes are chosen once, for the whole program: those of the study, or `tiny` ones of a few sentences that show that it runs.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from fractionate import Task, distill
from fractionate.data import Sentences, Split, Subwords, as_split, descriptions
from fractionate.data.subwords import END, PAD
from fractionate.records import Training
from fractionate.system.atomic import write_file
from fractionate.tasks import Predictions
from fractionate.tasks.metric import Summed, Sums, share
from fractionate.tasks.translation import Translation, bleu, chrf
from fractionate.teachers import translate
from fractionate.teachers.decoding import sequence_level

NOUNS = [
    ("tool", "strumento"),
    ("game", "gioco"),
    ("library", "libreria"),
    ("font", "carattere"),
    ("server", "servente"),
]
TOPICS = [("sound", "suono"), ("images", "immagini"), ("text", "testo"), ("mail", "posta"), ("maps", "mappe")]
FEW = [(f"{a} for {b}", f"{c} per {d}") for a, c in NOUNS for b, d in TOPICS]  # sentences of the tiny setting


@dataclass(frozen=True)
class Size:
    """How large everything is; `words` of the English side, `longest` pieces a side, `pieces` of the joint vocabulary."""

    runs: Path = Path("runs/study_translation_dissect")
    words: int = 6
    longest: int = 18
    subwords: int = 1200
    transfer: int = 4000  # pairs that a student learns from, of those the teacher learned from
    teacher: tuple[int, int] = (192, 3)  # width, layers
    student: tuple[int, int] = (64, 1)
    teaching: Training = field(
        default=Training(
            steps=1200, batch_size=64, learning_rate=2e-3, warmup_share=0.1, clip_norm=1.0, precision="bfloat16"
        )
    )
    learning: Training = field(
        default=Training(steps=500, batch_size=32, learning_rate=8e-3, warmup_share=0.1, precision="bfloat16")
    )


FULL = Size()
TINY = Size(
    runs=Path("runs/study_translation_tiny"), subwords=70, transfer=15, teacher=(64, 1), student=(32, 1),
    teaching=Training(steps=60, batch_size=20, learning_rate=1e-2), learning=Training(steps=4, batch_size=8, learning_rate=8e-3),
)  # fmt: skip


def translator(subwords: int, *, width: int, layers: int, seed: int | None = None, **more: float) -> nn.Module:
    """A Marian of Hugging Face, from its config; weights drawn by the seed, or by the global generator."""
    from transformers import MarianConfig, MarianMTModel

    if seed is not None:
        torch.manual_seed(seed)
    config = MarianConfig(
        vocab_size=subwords, decoder_vocab_size=subwords, d_model=width, encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=width // 32, decoder_attention_heads=width // 32, encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width, max_position_embeddings=64, pad_token_id=PAD, eos_token_id=END, bos_token_id=None,
        decoder_start_token_id=PAD, forced_eos_token_id=None, scale_embedding=True,
        **{"dropout": 0.1} | more,
        attn_implementation="eager",  # torch's fused attention has a slow bfloat16 gradient on CPUs: 40 % of a step
    )  # fmt: skip
    model: Any = MarianMTModel(config)
    model.generation_config.update(num_beams=4, length_penalty=0.6, early_stopping=True)  # the paper's
    return model  # type: ignore[no-any-return]


def where(gold: bool) -> Callable[[Predictions, Any], Sums]:
    """Sums of the TA rate over the tokens at which the teacher's top-1 is the gold token, or is not."""

    def sums(predictions: Predictions, signal: Any) -> Sums:
        if signal is None:
            return {}
        top = signal.logits.argmax(dim=1)
        kept = (top == signal.labels) == gold
        same = (predictions.required_logits.argmax(dim=1) == top)[kept].double().sum()
        return {"sum": same, "weight": kept.double().sum()}

    return sums


@dataclass(frozen=True, eq=False)
class Material:
    """Pairs of Debian's package descriptions split by source package, in pieces learned from those to train on."""

    size: Size

    @cached_property
    def parts(self) -> tuple[Any, Any]:
        """Pairs to learn from and 1,000 to report; 400 to choose by are held out too, and nothing was chosen."""
        if self.size is TINY:
            return FEW[5:], FEW[:5]
        rest, _, test = descriptions("en", "it").up_to(self.size.words).held_out(400, 1000)
        return rest, test

    @cached_property
    def subwords(self) -> Subwords:
        path = self.size.runs / "pieces.model"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            pairs = [pair if isinstance(pair, tuple) else (pair.source, pair.target) for pair in self.listed]
            Subwords.learned([text for pair in pairs for text in pair], self.size.subwords).save(path)
        return Subwords.read(path)

    @property
    def listed(self) -> list[Any]:
        return list(getattr(self.parts[0], "pairs", self.parts[0]))

    def sentences(self, pairs: Any) -> Sentences:
        return Sentences.of(pairs, self.subwords, longest=self.size.longest)

    @cached_property
    def transfer(self) -> Sentences:
        rest = self.parts[0]
        return self.sentences(rest[: self.size.transfer] if isinstance(rest, list) else rest.some(self.size.transfer))

    @cached_property
    def test(self) -> Sentences:
        return self.sentences(self.parts[1])

    @cached_property
    def teacher(self) -> nn.Module:
        """Learned from all pairs, with the label smoothing of the paper; read back where it is there."""
        width, layers = self.size.teacher
        model = translator(len(self.subwords), width=width, layers=layers, seed=1)
        distill(
            model, self.sentences(self.parts[0]).loader(), training=self.size.teaching, terms=["label-smoothing(0.1)"],
            arm="teacher", out=self.size.runs / "teacher", save_every_seconds=120, show="nothing",
        )  # fmt: skip
        return model.eval()

    @cached_property
    def task(self) -> Task:
        """Beam search as in the paper (4, length penalty 0.6), and what teacher forcing shows, token by token."""
        width, layers = self.size.student
        vocabulary, subwords = len(self.subwords), self.subwords
        text: dict[str, Any] = {
            "decode": lambda ids: subwords.decode([ids])[0], "special": (PAD,), "tokens": self.size.longest + 1,
        }  # fmt: skip
        split = {"reads_teacher": True, "finish": share, "counts": True}
        return Task(
            Translation(beams=4),
            name="Debian descriptions, en–it",
            transfer=self.transfer.loader(),
            test=self.test.loader(),
            student=lambda: translator(vocabulary, width=width, layers=layers, dropout=0.0, init_std=0.125),
            metrics=(
                bleu(**text), chrf(**text), "ta-rate", "accuracy", "token-nll",
                Summed(name="ta-where-gold", terms=where(True), **split),
                Summed(name="ta-where-not-gold", terms=where(False), **split),
            ),
            batch_size=128,
        )  # fmt: skip

    @cached_property
    def beams(self) -> bytes:
        """What the teacher writes for the sources of the transfer set, made once, as JSON."""
        path = self.size.runs / "beams.json"
        if not path.exists():
            found = translate(self.teacher, self.transfer, beams=4, longest=self.size.longest + 2, batch_size=128)
            write_file(path, json.dumps(found).encode())
        return path.read_bytes()

    @property
    def written_sha256(self) -> str:
        return hashlib.sha256(self.beams).hexdigest()

    @cached_property
    def written(self) -> Sentences:
        return sequence_level(self.transfer, json.loads(self.beams), self.subwords, longest=self.size.longest + 6)


@functools.cache
def material(size: Size) -> Material:
    """The material of a size, one for the whole program."""
    return Material(size)


@dataclass(frozen=True)
class Written:
    """A transform: the same sources with what the teacher wrote for targets (sequence-level distillation)."""

    sha256: str  # of the teacher's sentences
    size: Size = field(compare=False, repr=False)
    version: ClassVar[int] = 1
    changes: ClassVar[frozenset[str]] = frozenset({"labels", "examples"})
    reads_teacher: ClassVar[bool] = False

    def bind(self, split: Split, student: nn.Module | None, teacher: nn.Module | None, seed: int) -> Split:
        return as_split(material(self.size).written.loader())
