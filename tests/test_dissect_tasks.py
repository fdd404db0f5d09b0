"""dissect() on whatever distill() takes: the loop trains every recipe of every task, in a few lines each. Small real models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from encoders import transformers
from fractionate import Objective, dissect, report
from fractionate.errors import ConfigError
from fractionate.records import Study, Training
from fractionate.study import Arm
from fractionate.tasks import Task
from fractionate.training import Recipe

transformers()
FEW = Training(steps=6, batch_size=8, learning_rate=3e-3)
KD = Objective("kd", 1.0, 0.9)
WORDS, LENGTH = 30, 7


def ids(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, WORDS, (count, LENGTH), generator=torch.Generator().manual_seed(seed))


def texts(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rows = ids(count, seed)
    return [
        {"input_ids": row, "attention_mask": torch.ones(LENGTH, dtype=torch.long), "labels": int(row.sum()) % 3}
        for row in rows
    ]


def bert(classes: int = 3, tokens: bool = False, **more: Any) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

    kind = BertForTokenClassification if tokens else BertForSequenceClassification
    config = BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16, num_labels=classes, **more,
    )  # fmt: skip
    return kind(config)


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=WORDS, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=16, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip


def marian() -> nn.Module:
    from transformers import MarianConfig, MarianMTModel

    return MarianMTModel(
        MarianConfig(
            vocab_size=WORDS, decoder_vocab_size=WORDS, d_model=16, encoder_layers=1, decoder_layers=1,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24,
            max_position_embeddings=16, pad_token_id=0, eos_token_id=2, decoder_start_token_id=0, bos_token_id=None,
            forced_eos_token_id=None,
        )
    )  # fmt: skip


def tagged(count: int, seed: int = 0) -> list[dict[str, Any]]:
    return [{"input_ids": row, "labels": torch.where(row > 5, row % 3, -100)} for row in ids(count, seed)]


def continued(count: int, seed: int = 0) -> list[dict[str, Any]]:
    return [{"input_ids": row, "labels": row} for row in ids(count, seed)]


def translated(count: int, seed: int = 0) -> list[dict[str, Any]]:
    return [
        {"input_ids": row, "decoder_input_ids": torch.cat([row.new_zeros(1), row[:-1]]), "labels": row}
        for row in ids(count, seed)
    ]


def seeded(make: Any, seed: int = 9) -> nn.Module:
    torch.manual_seed(seed)
    model: nn.Module = make().eval()
    return model


TASKS: dict[str, tuple[str, Any, Any]] = {
    "texts": ("classification", texts, bert),
    "tagger": ("token-classification", tagged, lambda: bert(tokens=True)),
    "language model": ("language-modelling", continued, llama),
    "translation": ("translation", translated, marian),
}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_dissected(name: str, tmp_path: Path) -> None:
    kind, data, make = TASKS[name]
    task = Task(kind, transfer=data(24), test=data(16, 1), student=make)
    arms = {"no teacher": Recipe(training=FEW), "kd": Recipe(objective=KD, training=FEW)}
    study = dissect(task, arms, seeded(make), seeds=2, out=tmp_path, progress="off")
    assert {run.status for run in study.runs} == {"completed"} and study.baseline == "no teacher"
    assert study.metrics[0].name == task.deciding.name and study.runs[0].settings["backend"].startswith("loop: ")
    effect = next(e for e in study.effects if e.arm == "kd")
    assert effect.against == "no teacher" and effect.seeds == 2
    assert Study.load(tmp_path / "study.json") == study
    next((tmp_path / "runs").iterdir()).unlink()
    again = dissect(task, arms, seeded(make), seeds=2, out=tmp_path, progress="off")
    assert [replace(r, wall_seconds=0.0) for r in again.runs] == [replace(r, wall_seconds=0.0) for r in study.runs]
    assert report(study, tmp_path / "page.html").exists()


def test_terms_of_attention_and_features_are_arms_with_placebos() -> None:
    task = Task("classification", transfer=texts(24), test=texts(16, 1), student=bert)
    arms: dict[str, Recipe | Arm] = {
        "no teacher": Recipe(training=FEW),
        "kd": Recipe(objective=KD, training=FEW),
        "map": Recipe(objective=KD, terms=("map",), training=FEW),
        "hints": Recipe(
            objective=KD, terms=("fitnets('bert.encoder.layer.0', 'bert.encoder.layer.1', weight=0.1)",), training=FEW
        ),
        "shuffled": Arm(Recipe(objective=replace(KD, cell="kd-shuffled"), training=FEW), placebo_of="kd"),
    }
    study = dissect(task, arms, seeded(bert), seeds=2, progress="off", workers=2)
    pairs = {(e.arm, e.against, e.placebo) for e in study.effects if e.metric == "accuracy"}
    assert ("kd", "shuffled", False) in pairs and ("shuffled", "no teacher", True) in pairs
    found = {run.arm: run for run in study.runs}
    assert found["map"].test != found["kd"].test and found["hints"].contract is not None
    assert "map" in str(found["map"].contract) and found["hints"].settings["terms"]
    alone = dissect(task, arms, seeded(bert), seeds=2, progress="off")
    assert [r.test for r in alone.runs] == [r.test for r in study.runs]  # one process or two


def test_what_cannot_be_compared_is_refused() -> None:
    task = Task("classification", transfer=texts(24), test=texts(16, 1), student=bert)
    one = bert()
    with pytest.raises(ConfigError, match="gives the same module"):
        dissect(replace(task, student=lambda: one), teacher=seeded(bert), seeds=2, progress="off")
    with pytest.raises(ConfigError, match="needs a teacher"):
        dissect(task, {"a": Recipe(), "kd": Recipe(objective=KD)}, seeds=2, progress="off")
    with pytest.raises(ConfigError, match="placebo of 'kd'"):
        dissect(task, {"a": Recipe(), "b": Arm(Recipe(), placebo_of="kd")}, seeds=2, progress="off")
    with pytest.raises(ConfigError, match="brings its own data"):
        dissect(task, texts(4), seeded(bert), seeds=2, progress="off")
    with pytest.raises(ConfigError, match="nothing to judge"):
        dissect(replace(task, test=None), teacher=seeded(bert), seeds=2, progress="off")
