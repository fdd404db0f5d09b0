"""Definitions of WordNet as hashed bags of words, which studies of plain networks learn from."""

from __future__ import annotations

import zlib

import torch

from fractionate.data import Examples, read_glosses
from fractionate.data.language_sets import TOPICS


def hashed_words(texts: list[str], width: int) -> torch.Tensor:
    """Bags of words [texts, width]: every word counts at the place its CRC-32 names; rows have length 1."""
    bags = torch.zeros(len(texts), width)
    for row, text in enumerate(texts):
        for word in text.lower().replace(",", " ").replace(";", " ").split():
            bags[row, zlib.crc32(word.encode()) % width] += 1
    return torch.nn.functional.normalize(bags, dim=1)


def wordnet_glosses(examples: int = 20_000, width: int = 1024, seed: int = 0) -> Examples:
    """Some of the definitions, drawn at random with a seed, as hashed bags of words; 45 topics as classes."""
    rows = list(read_glosses())
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:examples].tolist()
    chosen = [rows[i] for i in order]
    bags = hashed_words([text for text, _, _ in chosen], width)
    return Examples(
        bags, torch.tensor([topic for _, topic, _ in chosen]), TOPICS, "wordnet-glosses", tuple(map(str, order))
    )
