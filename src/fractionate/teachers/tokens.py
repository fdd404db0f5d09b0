"""Token signals: the kernel over [batch, tokens, classes] with masks. A token to predict is a row; padding is no row.

The engine reduces rows as it does everywhere: the weighted mean over all tokens of a step whose label is not -100, however the
step is cut. Everything here makes rows, finds them again in a store, or measures them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fractionate.data.labels import IGNORED, check_same_labels
from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.kernels.vocabulary import HeadSignal
from fractionate.losses.objective import Objective
from fractionate.models.outputs import rows
from fractionate.store.hidden import HiddenLogits
from fractionate.store.ranges import spans
from fractionate.store.reading import Store
from fractionate.tasks.predictions import Predictions
from fractionate.theory.spectrum.vocabulary import VocabularyPopulation
from fractionate.theory.teacher_signal import Population, TeacherSignal
from fractionate.theory.topk_signal import CompactSignal, top_one

__all__ = ["ANALYSIS", "IGNORED", "StoredTokens", "TokenSignal", "analysis", "gold_share", "ta_rate", "token_signal"]

Form = Literal["dense", "compact", "hidden"]


@dataclass(frozen=True, eq=False)
class TokenSignal:
    """A teacher's outputs on the tokens of some sentences: a row for each token that has a label, and where it stands.

    `sentence` is the sentence of each row, `position` its place among the labelled tokens of that sentence, from 0.
    """

    signal: TeacherSignal | CompactSignal
    sentence: Int[Tensor, "rows"]
    position: Int[Tensor, "rows"]

    def __len__(self) -> int:
        return len(self.sentence)

    def take(self, index: Int[Tensor, "some"] | Bool[Tensor, "rows"]) -> TokenSignal:
        """Some of the tokens; of a dense signal the statistics stay those of the whole."""
        places = index.nonzero().flatten() if index.dtype == torch.bool else index
        return TokenSignal(self.signal.take(places), self.sentence[places], self.position[places])

    @property
    def labels(self) -> Int[Tensor, "rows"]:
        """The gold token of each row."""
        return self.signal.labels

    @property
    def sentences(self) -> int:
        """How many sentences have at least one token here."""
        return len(torch.unique(self.sentence))


def token_signal(
    logits: Float[Tensor, "batch tokens classes"],
    labels: Int[Tensor, "batch tokens"],
    *,
    predicts_next: bool = False,
) -> TokenSignal:
    """The teacher's rows for all tokens whose label is not -100.

    Args:
        logits: [batch, tokens, classes].
        labels: [batch, tokens] token ids; -100 where a token does not count.
        predicts_next: Of causal language models: the logits at a token predict the label of the next.

    Returns:
        `TokenSignal`: the rows, and the sentence of each.

    Raises:
        MismatchError: for shapes that do not fit and where no token has a label.

    Example:
        import torch
        from fractionate.teachers import token_signal

        print(len(token_signal(torch.randn(2, 5, 9), torch.zeros(2, 5, dtype=torch.long), predicts_next=True)))
    """
    if logits.ndim != 3:
        raise MismatchError(
            "these are not logits of tokens", expected="[batch, tokens, classes]", got=str(list(logits.shape))
        )
    flat, gold, place = rows(logits, labels, predicts_next=predicts_next)
    if not len(gold):
        raise MismatchError(
            "no token has a label", expected=f"labels other than {IGNORED}", got=f"{IGNORED} in all of {labels.numel()} places",
            fix="leave this batch out; within distill() it counts for nothing",
        )  # fmt: skip
    assert place is not None
    sizes = torch.bincount(place, minlength=len(labels))
    return TokenSignal(TeacherSignal(flat, gold), place, _counted(sizes))


def _counted(sizes: Int[Tensor, "batch"]) -> Int[Tensor, "rows"]:
    """0, 1, … of each sentence, one after the other."""
    found = spans(np.zeros(len(sizes), np.int64), sizes.cpu().numpy().astype(np.int64))
    return torch.from_numpy(found).to(sizes.device)


class StoredTokens:
    """A teacher of tokens whose outputs are stored: `distill(student, data, StoredTokens(store), …)`.

    Args:
        store: Collected with `tokens="next"` or `"aligned"` over the same sentences.
        form: "dense" gives all classes of a batch's tokens (compact rows with the tail mass spread evenly; of hidden states made
            where they are read), "compact" label, entries and tail mass, "hidden" hidden states and the teacher's output layer, for
            `losses.kernels.vocabulary`.
        places: [sentences] places in the store of the sentences of the data, where these are fewer.
        temperature: At which compact rows are read.

    Raises:
        MismatchError: where sentences have no cached signal, and, batch by batch, where a sentence has other tokens now.
        ConfigError: for a form that the store does not have.

    Example:
        import torch
        from fractionate import collect
        from fractionate.teachers import StoredTokens
        ids = torch.randint(9, (6, 5))
        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.table = torch.nn.Embedding(9, 9)
            def forward(self, input_ids):
                return self.table(input_ids)
        store = collect(Model(), (ids, ids), "runs/tokens", tokens="next")
        teacher = StoredTokens(store)  # of distill(student, data, teacher)
    """

    def __init__(
        self,
        store: Store,
        *,
        form: Form = "dense",
        places: Int[Tensor, "sentences"] | None = None,
        temperature: float = 1.0,
    ) -> None:
        if not store.head.tokens:
            raise MismatchError(
                f"the store {store.path} is not one of tokens", expected='collect(..., tokens="next" or "aligned")',
                got="one row per example",
            )  # fmt: skip
        fits = {"dense": True, "compact": store.form.compacted, "hidden": store.form.kind == "hidden"}
        if not fits.get(form, False):
            raise ConfigError(
                f"form={form!r} cannot be given",
                expected="dense; compact for a store kept top-k or sampled; hidden for hidden states",
                got=f"a store kept {store.form.kind}",
            )  # fmt: skip
        self.form, self.temperature = form, temperature
        self.places = torch.arange(store.examples) if places is None else places.cpu()
        absent = self.places[torch.from_numpy(~store.present()[self.places.numpy()])]
        if len(absent):
            raise MismatchError(
                f"{len(absent):,} of {len(self.places):,} sentences have no cached signal",
                expected="a row for each token of each sentence",
                got=f"nothing for sentences {', '.join(map(str, absent[:8].tolist()))}{' …' if len(absent) > 8 else ''}",
                fix="run collect again: it resumes where it stopped; or leave them out: places=cached(store)",
            )
        columns = store.read(self.places)
        self._compact = store.form.compact(columns) if store.form.compacted else None
        self.labels = torch.from_numpy(columns["labels"].astype(np.int64))
        self._dense: Tensor | HiddenLogits | None = None
        if self._compact is None:
            self._dense = store.form.decode_lazily(columns)
        order = {place: number for number, place in enumerate(self.places.tolist())}
        self._sentence = torch.tensor([order[place] for place in columns["places"].tolist()])
        sizes = torch.bincount(self._sentence, minlength=len(self.places))
        self.offsets = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
        self.classes = store.head.classes
        self._content = f"{store.head.sha256}:{form}:{temperature}:{len(self.places)}:{int(self.places.sum())}"
        self._vocabulary: Any = None if self._compact is None else VocabularyPopulation(self._compact)
        self._population = None if self._dense is None else Population(self._dense, self.labels)

    @property
    def hidden(self) -> bool:
        """Whether hidden states are kept."""
        return isinstance(self._dense, HiddenLogits)

    @property
    def tokens(self) -> TokenSignal:
        """All rows, to be measured."""
        signal: TeacherSignal | CompactSignal
        if self._compact is None:
            assert self._dense is not None
            signal = TeacherSignal(self._dense[:], self.labels)
        else:
            signal = self._compact
        return TokenSignal(signal, self._sentence, _counted(self.offsets.diff()))

    def signal_for(self, predictions: Predictions) -> Any:
        """The signal of these tokens. Raises `MismatchError` where they are not the tokens that the teacher was run on."""
        index, labels, place = predictions.batch.index.cpu(), predictions.labels, predictions.place
        absent = index[index >= len(self.places)]
        if len(absent):
            raise MismatchError(
                f"the teacher was not run on sentence {int(absent[0])}",
                expected=f"one of the {len(self.places):,} sentences of the store, in their order",
                got=f"{len(absent)} others in this batch",
                fix="collect on these very data",
            )
        starts, sizes = self.offsets[index].numpy(), self.offsets.diff()[index].numpy()
        found = torch.from_numpy(spans(starts, sizes))
        which = index if place is None else index[place.cpu()]
        if len(found) != len(labels):
            now = torch.bincount(place.cpu(), minlength=len(index)) if place is not None else torch.ones_like(index)
            wrong = int((now != torch.from_numpy(sizes)).nonzero()[0])
            raise MismatchError(
                f"sentence {int(index[wrong])} does not have the tokens that the teacher was run on",
                expected=f"{int(sizes[wrong])} labelled tokens", got=str(int(now[wrong])),
                fix="the same tokenizer, truncation and template on both sides, or collect again",
            )  # fmt: skip
        check_same_labels(self.labels[found], labels.cpu(), which)
        return self.rows(found).to(labels.device)

    def states(self, index: Int[Tensor, "batch"]) -> Float[Tensor, "rows width"]:
        """What entered the teacher's output layer at the tokens of some sentences; of a store of hidden states."""
        assert isinstance(self._dense, HiddenLogits)
        starts, sizes = self.offsets[index.cpu()].numpy(), self.offsets.diff()[index.cpu()].numpy()
        return self._dense.hidden[torch.from_numpy(spans(starts, sizes))]

    def whole(self) -> TeacherSignal | CompactSignal:
        """All rows."""
        return self.tokens.signal

    def rows(self, found: Int[Tensor, "some"]) -> TeacherSignal | CompactSignal | HeadSignal:
        """Some of the tokens by their places in the whole."""
        if self.form == "hidden":
            assert isinstance(self._dense, HiddenLogits)
            layer, kept = self._dense.layer, self._dense.hidden[found].to(self._dense.layer.weight.dtype)
            return HeadSignal(
                kept, layer.weight, self.labels[found], layer.constant, population=self._population, rows=found
            )
        if self._dense is not None:
            return TeacherSignal(
                self._dense[found],
                self.labels[found],
                temperature=self.temperature,
                population=self._population,
                rows=found,
            )
        assert self._compact is not None
        part = self._compact.take(found).at(self.temperature)
        if self.form == "compact":
            return part
        dense: TeacherSignal = replace(part.dense(), population=self._vocabulary, rows=found)  # the statistics of all
        return dense

    def fingerprint(self) -> str:
        """What tells this store from others."""
        return self._content


@dataclass(frozen=True, eq=False)
class StreamedTokens:
    """A store of tokens whose rows are read, and proved, batch by batch: for stores that are larger than the memory.

    A batch's rows are those of `StoredTokens`; statistics of all rows are not known, so class-level cells cannot be computed.
    """

    store: Store
    form: Form = "dense"

    @property
    def hidden(self) -> bool:
        """Whether hidden states are kept."""
        return self.store.form.kind == "hidden"

    def signal_for(self, predictions: Predictions) -> Any:
        """The signal of these tokens. Raises `MismatchError` where the store has none, or other tokens."""
        batch = predictions.batch
        places = torch.arange(len(batch.index))
        found = self._part(batch.index)
        return found.signal_for(replace(predictions, batch=replace(batch, index=places)))

    def states(self, index: Int[Tensor, "batch"]) -> Float[Tensor, "rows width"]:
        """What entered the teacher's output layer at the tokens of some sentences; of a store of hidden states."""
        return self._part(index).states(torch.arange(len(index)))

    def whole(self) -> TeacherSignal | CompactSignal:
        """All rows, in memory."""
        return StoredTokens(self.store, form=self.form).whole()

    def fingerprint(self) -> str:
        """What tells this store from others."""
        return f"{self.store.head.sha256}:{self.form}"

    def _part(self, index: Int[Tensor, "batch"]) -> StoredTokens:
        return StoredTokens(self.store, form=self.form, places=index.cpu())


def cached(store: Store) -> Int[Tensor, "sentences"]:
    """The places of the sentences that a store knows: how many are left out is `store.examples - len(cached(store))`."""
    return torch.from_numpy(np.flatnonzero(store.present()[: store.examples]))


# --- what the second paper asks: where does the knowledge hide? ----------------------------------------------------------------

ANALYSIS: dict[str, tuple[str, str]] = {  # name -> cell, divergence (Zhang et al., arXiv 2305.08096)
    "word-kd": ("kd", "forward-kl"),  # (a)
    "without-correlation": ("kd", "topk-cross-entropy(1)"),  # (b) -p(m) log q(m)
    "without-top1": ("with-top1 * without-top1", "forward-kl"),  # (c)
    "no-kd": ("hard", "cross-entropy"),  # (d), with "label-smoothing" with it
    "label-smoothing": ("smoothed-others(0.1) * uniform", "cross-entropy"),  # fairseq's epsilon / (classes - 1)
    "top-k": ("kd", "topk-cross-entropy(5)"),  # not renormalised
    "top1-shape": (
        "instance * top1",
        "forward-kl",
    ),  # ours: the label's confidence, all else on the teacher's next best
}


def analysis(name: str, *, temperature: float = 1.0, teacher_weight: float = 0.5) -> Objective:
    """One of the analysis targets of Zhang et al. by name.

    Source: Zhang et al. (arXiv 2305.08096), section 3; their weight is ½ and their temperature 1.

    Args:
        name: One of `ANALYSIS`.
        temperature: Of teacher and student.
        teacher_weight: Of the teacher's part, in [0, 1].

    Returns:
        An `Objective`.

    Raises:
        ConfigError: for an unknown name.

    Example:
        from fractionate.teachers.tokens import ANALYSIS, analysis

        print(analysis(next(iter(ANALYSIS))))
    """
    if name not in ANALYSIS:
        raise ConfigError(f"there is no analysis target {name!r}", expected=", ".join(ANALYSIS))
    cell, divergence = ANALYSIS[name]
    return Objective(cell, temperature, teacher_weight, divergence=divergence)


def gold_share(signal: TeacherSignal | CompactSignal) -> float:
    """The share of tokens at which the teacher's top-1 is the gold token: there word-level KD adds little.

    Source: Zhang et al. (arXiv 2305.08096).

    Args:
        signal: Rows of all tokens.

    Returns:
        A share in [0, 1].

    Example:
        import torch
        from fractionate import TeacherSignal
        from fractionate.teachers import gold_share

        print(gold_share(TeacherSignal(torch.eye(4), torch.arange(4))))
    """
    return float((top_one(signal) == signal.labels).double().mean())


def ta_rate(student_logits: Float[Tensor, "rows classes"], signal: TeacherSignal | CompactSignal) -> float:
    """The share of tokens, under teacher forcing, at which student and teacher have the same top-1.

    Source: Zhang et al. (arXiv 2305.08096).

    Args:
        student_logits: [rows, classes].
        signal: The teacher's on the same rows.

    Returns:
        A share in [0, 1].

    Raises:
        MismatchError: where the numbers of rows differ.

    Example:
        import torch
        from fractionate import TeacherSignal
        from fractionate.teachers import ta_rate

        print(ta_rate(torch.eye(4), TeacherSignal(torch.eye(4), torch.arange(4))))
    """
    if len(student_logits) != len(signal):
        raise MismatchError(
            "student and teacher speak of different tokens", expected=str(len(signal)), got=str(len(student_logits))
        )
    return float((student_logits.argmax(dim=1) == top_one(signal).to(student_logits.device)).double().mean())
