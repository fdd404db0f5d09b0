"""Sequence-level distillation: the teacher writes the targets once, before the student is trained."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fractionate.data.batch import Batch, Split
from fractionate.data.labels import IGNORED
from fractionate.data.parts import ChangedSplit, subset
from fractionate.data.transforms import Transform, transforms
from fractionate.errors import ConfigError, MismatchError
from fractionate.models.modes import eval_mode, plain_module
from fractionate.models.outputs import device_of
from fractionate.system.fingerprints import model_hash
from fractionate.system.hashing import content_hash
from fractionate.teachers.on_policy import check_writes, completed, left_padded, prompts_of, until_end

KEPT = 4  # what teachers wrote last in this process: the students of a study learn from the same texts
_written: OrderedDict[tuple[str, ...], list[list[int]]] = OrderedDict()


@transforms.register("sequence_level")
@dataclass(frozen=True)
class SequenceLevel(Transform):
    """Targets are the teacher's own translations of the sources, or its completions of the prompts.

    Examples for which it writes nothing, or does not come to an end within `longest` tokens, are left out; their number is part
    of the data's name.
    Source: Kim and Rush (arXiv 1606.07947).

    Args:
        beams: Of the beam search; 1: greedy.
        longest: The most tokens of a text, its end included.
        length_penalty: Exponent of the length by which a beam's log-likelihood is divided.
        batch_size: Texts written at once.
    """

    beams: int = 4
    longest: int = 64
    length_penalty: float = 0.6
    batch_size: int = 64
    changes: ClassVar[frozenset[str]] = frozenset({"inputs", "labels", "examples"})
    reads_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if min(self.beams, self.batch_size) < 1 or self.longest < 2:
            raise ConfigError(
                "invalid value for sequence_level",
                expected="beams and batch_size of at least 1, longest of at least 2",
                got=f"{self.beams}, {self.batch_size}, {self.longest}",
            )

    def bind(self, split: Split, student: nn.Module | None, teacher: nn.Module | None, seed: int) -> Split:
        """The split with written targets.

        Raises `ConfigError` for a teacher that is not there or cannot write, and `MismatchError` where nothing is left.
        """
        model: Any = None if teacher is None else plain_module(teacher)
        check_writes(model, "the teacher of sequence_level")
        special = _Tokens.of(model)
        weights = model_hash(model)
        key = (repr(self), split.fingerprint(), weights, model.generation_config.to_json_string())
        if key not in _written:
            _written[key] = self._write(model, split, special)
        _written.move_to_end(key)
        while len(_written) > KEPT:
            _written.popitem(last=False)
        written = _written[key]
        kept = [place for place, row in enumerate(written) if len(row) > 1]
        if not kept:
            empty = sum(len(row) == 1 for row in written)
            raise MismatchError(
                "the teacher wrote nothing that can be learned from",
                expected=f"texts that end within {self.longest} tokens",
                got=f"{empty} empty, {len(written) - empty} without an end",
                fix="read what it writes: is it trained? does it end its texts?",
            )
        targets = [written[place] for place in kept]

        def change(batch: Batch, epoch: int, seed: int) -> Batch:
            rows = [targets[place] for place in batch.index.tolist()]
            if not special.encodes:
                return completed(batch, prompts_of(batch), rows, special.padding)
            return _translated(batch, rows, special)

        lengths = torch.tensor([len(row) for row in targets])
        digest = content_hash(lengths, torch.tensor([token for row in targets for token in row]))
        out = len(written) - len(kept)
        name = f"{split.name}, written by the teacher" + (f" ({out} left out)" if out else "")
        return ChangedSplit(subset(split, torch.tensor(kept)), change, digest, name, True)

    def _write(self, model: Any, split: Split, special: _Tokens) -> list[list[int]]:
        """What the model writes for each example, its end included; nothing where it does not end. Short ones together."""
        device = device_of(model)
        places = torch.arange(len(split))
        lengths = torch.cat([_lengths(b) for b in split.batches([(0, p) for p in torch.split(places, 256)], 0)])
        found: list[list[int]] = [[] for _ in places]
        settings: dict[str, Any] = {"num_beams": self.beams, "do_sample": False}
        if self.beams > 1:
            settings |= {"length_penalty": self.length_penalty, "early_stopping": True}
        plan = [(0, index) for index in torch.split(lengths.argsort(stable=True), self.batch_size)]
        with eval_mode(model):
            for batch in split.batches(plan, 0):
                if special.encodes:
                    inputs = {name: part.to(device) for name, part in _sources(batch).items()}
                    rows = model.generate(**inputs, **settings, max_new_tokens=self.longest)[:, 1:]
                else:
                    ids, mask = left_padded(prompts_of(batch), special.padding)
                    rows = model.generate(
                        input_ids=ids.to(device), attention_mask=mask.to(device), **settings, max_new_tokens=self.longest,
                        pad_token_id=special.padding,
                    )[:, ids.shape[1] :]  # fmt: skip
                for place, row in zip(batch.index.tolist(), rows.tolist(), strict=True):
                    found[place] = until_end(row, special.end) if special.end in row else []
        return found


@dataclass(frozen=True)
class _Tokens:
    """The special tokens by which a model writes, and whether it reads a source with an encoder."""

    end: int
    padding: int
    start: int
    encodes: bool

    @classmethod
    def of(cls, model: Any) -> _Tokens:
        outputs, encodes = model.generation_config, bool(model.config.is_encoder_decoder)
        ends = outputs.eos_token_id if isinstance(outputs.eos_token_id, list) else [outputs.eos_token_id]
        start = outputs.decoder_start_token_id if encodes else 0
        if ends[0] is None or start is None:
            raise ConfigError(
                f"{type(model).__name__} does not name the tokens that begin and end a text",
                expected="eos_token_id (and decoder_start_token_id) in its generation_config",
                got=f"{outputs.eos_token_id}, {start}",
            )
        return cls(ends[0], outputs.pad_token_id if outputs.pad_token_id is not None else ends[0], start, encodes)


def _sources(batch: Batch) -> Mapping[str, Tensor]:
    """The inputs of the encoder. Raises `MismatchError` where there are none by name, and for views of other readers."""
    if not isinstance(batch.inputs, Mapping) or "input_ids" not in batch.inputs or batch.views:
        raise MismatchError(
            "these data hold no sources to write for",
            expected="a mapping with input_ids, no views of others",
            got=type(batch.inputs).__name__,
        )
    return {name: part for name, part in batch.inputs.items() if not name.startswith("decoder_")}


def _lengths(batch: Batch) -> Tensor:
    inputs = batch.inputs
    if not isinstance(inputs, Mapping) or "input_ids" not in inputs:
        _sources(batch)
    mask = inputs.get("attention_mask")
    return torch.full((len(batch.index),), inputs["input_ids"].shape[1]) if mask is None else mask.sum(dim=1).cpu()


def _translated(batch: Batch, rows: Sequence[Sequence[int]], special: _Tokens) -> Batch:
    """The batch with other targets, padded to their longest."""
    width = max(map(len, rows))
    labels = torch.tensor([[*row, *[IGNORED] * (width - len(row))] for row in rows])
    before = torch.tensor([[special.start, *row[:-1], *[special.padding] * (width - len(row))] for row in rows])
    return replace(batch, inputs={**_sources(batch), "decoder_input_ids": before}, labels=labels, complete=False)
