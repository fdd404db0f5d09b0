"""Translation: one row for each labelled token of the target; text is written for BLEU and chrF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from fractionate.data.batch import Batch
from fractionate.data.labels import IGNORED
from fractionate.errors import ConfigError, MismatchError, extra
from fractionate.records import Direction
from fractionate.tasks.kind import Kind, inputs_by_name, kinds
from fractionate.tasks.metric import metrics
from fractionate.tasks.predictions import Needs, Predictions


@kinds.register("translation")
@dataclass(frozen=True)
class Translation(Kind):
    """Encoder-decoders: inputs with `input_ids` and `decoder_input_ids`, logits [batch, tokens, vocabulary].

    Args:
        beams: Beams of the text that metrics read; 1 is greedy.
    """

    beams: int = 1
    metrics: ClassVar[tuple[str, ...]] = ("token-nll", "accuracy", "perplexity", "ta-rate")
    tokens: ClassVar[Literal["", "aligned", "next"]] = "aligned"

    def generate(self, model: nn.Module, batch: Batch, tokens: int) -> Sequence[Sequence[int]]:
        """Token ids that the model writes for each source, without its first token."""
        if not hasattr(model, "generate"):
            raise MismatchError(
                f"{type(model).__name__} has no generate()", expected="an encoder-decoder of transformers"
            )
        inputs = {name: part for name, part in inputs_by_name(batch.inputs).items() if not name.startswith("decoder_")}
        writer: Any = model
        found: Tensor = writer.generate(**inputs, max_new_tokens=tokens, do_sample=False, num_beams=self.beams)
        return [row[1:] for row in found.tolist()]


Decode = Callable[[Sequence[int]], str]


@dataclass(eq=False)
class Texts:
    """What was written and what should have been, in the order of the data."""

    written: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class CorpusScore:
    """A score of a corpus with one reference each: all texts are held until the end.

    Args:
        score: From what was written and the references, 0 to 100.
        decode: Token ids to text; None: the ids stand for words, separated by spaces.
        special: Token ids that are no text (padding, start and end); left out before decoding.
        tokens: At most so many are generated for an example.
    """

    name: str
    score: Callable[[list[str], list[str]], float] = field(repr=False, compare=False)
    decode: Decode | None = field(default=None, compare=False)
    special: tuple[int, ...] = ()
    tokens: int = 128
    unit: ClassVar[str] = "points"
    better: ClassVar[Direction] = "more"
    margin: ClassVar[float] = 0.5
    counts: ClassVar[bool] = False
    reads_teacher: ClassVar[bool] = False
    final_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int) or self.tokens < 1:
            raise ConfigError(f"invalid number of tokens of {self.name}", expected="at least 1", got=repr(self.tokens))

    @property
    def needs(self) -> Needs:
        return Needs(generated=self.tokens)

    def start(self) -> Texts:
        return Texts()

    def add(self, state: Texts, predictions: Predictions, signal: Any | None) -> None:
        batch, written = predictions.batch, predictions.generated
        if written is None or len(written) != len(batch.labels) or batch.labels.ndim != 2:
            raise MismatchError(
                f"{self.name} needs generated text, and labels that are token ids",
                expected=f"one text for each of {len(batch.labels)} rows of labels [batch, tokens]",
                got=f"{'no' if written is None else len(written)} texts, labels {list(batch.labels.shape)}",
            )
        if batch.weight is not None and bool((batch.weight != 1).any()):
            raise ConfigError(f"{self.name} is of a whole corpus and has no weights", fix="leave the weights out")
        known = [True] * len(written) if batch.labelled is None else batch.labelled.tolist()
        for tokens, label, there in zip(written, batch.labels.tolist(), known, strict=True):
            if there:
                state.written.append(self.text(tokens))
                state.references.append(self.text([token for token in label if token != IGNORED]))

    def text(self, tokens: Sequence[int]) -> str:
        """Token ids as text."""
        kept = [int(token) for token in tokens if int(token) not in self.special]
        return " ".join(map(str, kept)) if self.decode is None else self.decode(kept)

    def value(self, state: Texts) -> float | None:
        return self.score(state.written, state.references) if state.written else None


def _sacrebleu() -> Any:
    with extra("sequences", "BLEU and chrF are sacrebleu's"):
        import sacrebleu
    return sacrebleu


def _bleu(written: list[str], references: list[str]) -> float:
    return float(_sacrebleu().corpus_bleu(written, [references]).score)


def _bleu_of_words(written: list[str], references: list[str]) -> float:
    return float(_sacrebleu().corpus_bleu(written, [references], tokenize="none", force=True).score)


def _chrf(written: list[str], references: list[str]) -> float:
    return float(_sacrebleu().corpus_chrf(written, [references]).score)


@metrics.register("bleu")
def bleu(decode: Decode | None = None, *, special: Sequence[int] = (), tokens: int = 128) -> CorpusScore:
    """BLEU of generated text (Papineni et al. 2002), tokenized by sacrebleu's 13a; without `decode` token ids are the words."""
    score = _bleu_of_words if decode is None else _bleu
    return CorpusScore(name="bleu", score=score, decode=decode, special=tuple(special), tokens=tokens)


@metrics.register("chrf")
def chrf(decode: Decode | None = None, *, special: Sequence[int] = (), tokens: int = 128) -> CorpusScore:
    """chrF of generated text (Popović 2015): n-grams of up to 6 characters; without `decode` those of the written ids."""
    return CorpusScore(name="chrf", score=_chrf, decode=decode, special=tuple(special), tokens=tokens)
