"""WordNet glosses: 117,659 dictionary definitions in 45 topics under 4 parts of speech (Princeton WordNet 3.0)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import torch

from fractionate.data.bundled import data_sets
from fractionate.data.examples import Examples
from fractionate.data.packages import package_file

TOPICS = tuple(
    """
    adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition
    noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object noun.person
    noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape noun.state noun.substance
    noun.time verb.body verb.change verb.cognition verb.communication verb.competition verb.consumption verb.contact
    verb.creation verb.emotion verb.motion verb.perception verb.possession verb.social verb.stative verb.weather adj.ppl
    """.split()  # noqa: SIM905
)
FILES = {
    "noun": "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
    "verb": "adcf43e35b581e8036d8b5a52d63d9cd3d3b4870b2720d3c03c799df44777bc2",
    "adj": "c89120dfc1f046ddff4a631bf9b7e9fa1a36b5e86565a23bf82dbe14f30b88a7",
    "adv": "444a63bf3955080ab7524f5079cfc07ff9bc682cb98bdb1db73b0fb9829f1139",
}


def read_glosses() -> Iterator[tuple[str, int, str]]:
    """Every definition as (text, topic number, headword).

    Returns:
        An iterator over WordNet's definitions.

    Example:
        from fractionate.data import read_glosses

        text, topic, headword = next(iter(read_glosses()))
    """
    for part_of_speech, sha256 in FILES.items():
        path = package_file("wordnet-base", f"usr/share/wordnet/data.{part_of_speech}", sha256)
        with path.open(encoding="utf8") as lines:
            for line in lines:
                if not line.startswith("  "):
                    head, _, gloss = line.partition(" | ")
                    fields = head.split()
                    yield gloss.strip().split('; "')[0], int(fields[1]), fields[4]


def hashed_words(texts: list[str], width: int) -> torch.Tensor:
    """Bags of words [texts, width]: every word counts at the place its CRC-32 names; rows have length 1."""
    bags = torch.zeros(len(texts), width)
    for row, text in enumerate(texts):
        for word in text.lower().replace(",", " ").replace(";", " ").split():
            bags[row, zlib.crc32(word.encode()) % width] += 1
    return torch.nn.functional.normalize(bags, dim=1)


@data_sets.register("wordnet-glosses")
def wordnet_glosses(examples: int = 20_000, width: int = 1024, seed: int = 0) -> Examples:
    """Some of the definitions, drawn at random with a seed, as hashed bags of words; 45 topics as classes."""
    rows = list(read_glosses())
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:examples].tolist()
    chosen = [rows[i] for i in order]
    bags = hashed_words([text for text, _, _ in chosen], width)
    return Examples(
        bags, torch.tensor([topic for _, topic, _ in chosen]), TOPICS, "wordnet-glosses", tuple(map(str, order))
    )
