"""What the study of translation works on: pairs of sentences, teacher and students, metrics.

Sizes are chosen once, for the whole program: those of the study, or `tiny` ones of a few sentences that show that it runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fractionate import Task, distill
from fractionate.data import RawSplit, Split, Tokenizing, data_sets
from fractionate.data.bundled import Divided, Parts
from fractionate.data.own_pairs import PairData
from fractionate.records import Training
from fractionate.tasks import Predictions
from fractionate.tasks.metric import Summed, Sums, share
from fractionate.tasks.translation import Translation, bleu, chrf

PAD, UNKNOWN, END = 0, 1, 2  # the pad also starts a decoder, as in Marian
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
    """How large everything is; `words` of the English side, `longest` pieces a side, `subwords` of the joint vocabulary."""

    runs: Path = Path("runs/study_translation")
    target: str = "it"
    name: str = "usual"
    words: int = 6
    longest: int = 32
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

    @property
    def pair(self) -> str:
        return f"en–{self.target}"


FULL = {target: Size(Path(f"runs/study_translation_{target}"), target) for target in ("it", "fr", "de")}
LARGE = {  # sentences to 32 tokens, 60,000 pairs for the students: out of reach of two cores, see study_translation.py
    target: replace(
        FULL[target], runs=Path(f"runs/study_translation_{target}_large"), name="large", words=16, subwords=8000, transfer=60_000,
        teacher=(256, 4), student=(128, 2),
        teaching=replace(FULL[target].teaching, steps=20_000, learning_rate=1e-3),
        learning=replace(FULL[target].learning, steps=10_000, batch_size=64, learning_rate=2e-3),
    )
    for target in FULL
}  # fmt: skip
TINY = Size(
    runs=Path("runs/study_translation_tiny"), name="tiny", subwords=70, transfer=15, teacher=(64, 1), student=(32, 1),
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
    """Pairs of Debian's package descriptions split by source package, in subwords learned from those to train on."""

    size: Size

    @cached_property
    def pairs(self) -> PairData:
        if self.size is TINY:
            columns = {"source": tuple(s for s, _ in FEW), "target": tuple(t for _, t in FEW)}
            return PairData(Divided(RawSplit(columns, tuple(map(str, range(len(FEW)))), "few")))
        found: PairData = data_sets[
            f"descriptions('en', {self.size.target!r}, words={self.size.words}, examples={10**9})"
        ]
        return found

    @cached_property
    def parts(self) -> Parts:
        """Pairs for the students and 1,000 to report; 400 to choose by are held out too, and nothing was chosen."""
        validation, test = (2, 5) if self.size is TINY else (400, 1000)
        return self.pairs.raw_parts(transfer=self.size.transfer, validation=validation, test=test)

    @cached_property
    def taught(self) -> RawSplit:
        """What the teacher learns from: the pairs of the students, and all that no part holds."""
        ours, rest = self.parts.transfer, self.parts.teaching
        columns = {role: (*column, *rest.columns[role]) for role, column in ours.columns.items()}
        return RawSplit(columns, (*ours.ids, *rest.ids), ours.name)

    @cached_property
    def tokenizer(self) -> Any:
        """Byte-pair subwords of both languages with an end; the same texts give the same ones."""
        from tokenizers import SentencePieceBPETokenizer
        from tokenizers.processors import TemplateProcessing
        from transformers import PreTrainedTokenizerFast

        made: Any = SentencePieceBPETokenizer()  # type: ignore[no-untyped-call]
        texts = [text for column in self.taught.columns.values() for text in column]
        special = ["<pad>", "<unk>", "</s>"]
        made.train_from_iterator(texts, self.size.subwords, special_tokens=special, show_progress=False)
        made.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
        return PreTrainedTokenizerFast(
            tokenizer_object=made._tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>",
            model_input_names=["input_ids", "attention_mask"],
        )  # fmt: skip

    def sentences(self, part: RawSplit) -> Split:
        return self.pairs.encode(part, Tokenizing(self.tokenizer, self.size.longest, PAD, PAD))

    @cached_property
    def transfer(self) -> Split:
        return self.sentences(self.parts.transfer)

    @cached_property
    def test(self) -> Split:
        return self.sentences(self.parts.test)

    @cached_property
    def teacher(self) -> nn.Module:
        """Learned from all pairs, with the label smoothing of the paper; read back where it is there."""
        width, layers = self.size.teacher
        model = translator(len(self.tokenizer), width=width, layers=layers, seed=1)
        distill(
            model, self.sentences(self.taught), training=self.size.teaching, terms=["label-smoothing(0.1)"],
            arm="teacher", out=self.size.runs / "teacher", save_every_seconds=120, show="nothing",
        )  # fmt: skip
        return model.eval()

    @cached_property
    def task(self) -> Task:
        """Beam search as in the paper (4, length penalty 0.6), and what teacher forcing shows, token by token."""
        width, layers = self.size.student
        tokenizer = self.tokenizer
        text: dict[str, Any] = {
            "decode": tokenizer.decode, "special": (PAD, UNKNOWN, END), "tokens": self.size.longest + 1,
        }  # fmt: skip
        split = {"reads_teacher": True, "finish": share, "counts": True}
        return Task(
            Translation(beams=4),
            name=f"Debian descriptions, {self.size.pair}",
            transfer=self.transfer,
            test=self.test,
            student=lambda: translator(len(tokenizer), width=width, layers=layers, dropout=0.0, init_std=0.125),
            metrics=(
                bleu(**text), chrf(**text), "ta-rate", "accuracy", "token-nll",
                Summed(name="ta-where-gold", terms=where(True), **split),
                Summed(name="ta-where-not-gold", terms=where(False), **split),
            ),
            batch_size=128,
        )  # fmt: skip


@functools.cache
def material(size: Size) -> Material:
    """The material of a size, one for the whole program."""
    return Material(size)
