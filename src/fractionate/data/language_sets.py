"""Real texts by name: WordNet's definitions, headwords and tagged sentences, and Debian's descriptions in two languages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from fractionate.data.bundled import Divided, data_sets
from fractionate.data.own_pairs import PairData
from fractionate.data.own_prompts import PromptData
from fractionate.data.own_tags import TaggedData
from fractionate.data.own_texts import TextData, TextEncoding
from fractionate.data.packages import package_file
from fractionate.data.raw import RawSplit
from fractionate.data.translation import descriptions
from fractionate.errors import ConfigError

KINDS = ("adj", "adv", "noun", "verb")
QUOTED = re.compile(r'"([^"]+)"')
WORDS = re.compile(r"\w+|[^\w\s]")
PARTS_OF_SPEECH = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}


def _drawn(rows: Sequence[Any], examples: int, seed: int) -> tuple[list[Any], tuple[str, ...]]:
    """So many rows at random, and their places as ids. Raises `ConfigError` for fewer than one."""
    if isinstance(examples, bool) or not isinstance(examples, int) or examples < 1:
        raise ConfigError("invalid value for examples", expected="a count of at least 1", got=repr(examples))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:examples].tolist()
    return [rows[place] for place in order], tuple(map(str, order))


@data_sets.register("definitions")
def definitions(examples: int = 4000, *, topics: bool = False, seed: int = 0) -> TextData:
    """Definitions of WordNet 3.0, labelled with the part of speech (4 classes) or the topic (45) of the word they define."""
    rows, ids = _drawn(list(read_glosses()), examples, seed)
    names = TOPICS if topics else KINDS
    numbers = [topic if topics else KINDS.index(TOPICS[topic].partition(".")[0]) for _, topic, _ in rows]
    columns = {"text": tuple(text for text, _, _ in rows), "label": tuple(numbers)}
    whole = RawSplit(columns, ids, "definitions", names)
    return TextData(Divided(whole, keys=columns["text"]), TextEncoding(names))


@data_sets.register("headwords")
def headwords(examples: int = 4000, *, seed: int = 0) -> PromptData:
    """A headword of WordNet 3.0 as the prompt, its definition and a full stop as the completion."""
    rows, ids = _drawn(list(read_glosses()), examples, seed)
    columns = {
        "prompt": tuple(f"{word.replace('_', ' ')}:" for _, _, word in rows),
        "completion": tuple(f" {text}." for text, _, _ in rows),
    }
    return PromptData(Divided(RawSplit(columns, ids, "headwords"), keys=columns["prompt"]))


@data_sets.register("usage")
def usage(examples: int = 4000, *, seed: int = 0) -> TaggedData:
    """Example sentences of WordNet 3.0: the word that a sentence illustrates is tagged with its part of speech, others with O."""
    names = ("O", *PARTS_OF_SPEECH.values())
    found: list[tuple[tuple[str, ...], tuple[int, ...]]] = []
    for kind, sha256 in FILES.items():
        path = package_file("wordnet-base", f"usr/share/wordnet/data.{kind}", sha256)
        with path.open(encoding="utf8") as lines:
            for line in lines:
                head, _, gloss = line.partition(" | ")
                if line.startswith("  ") or '"' not in gloss:
                    continue
                word = head.split()[4].lower()
                for sentence in QUOTED.findall(gloss):
                    words = tuple(WORDS.findall(sentence))
                    tags = tuple(names.index(PARTS_OF_SPEECH[kind]) if part.lower() == word else 0 for part in words)
                    if any(tags):
                        found.append((words, tags))
    rows, ids = _drawn(found, examples, seed)
    columns = {"words": tuple(words for words, _ in rows), "tags": tuple(tags for _, tags in rows)}
    return TaggedData(Divided(RawSplit(columns, ids, "usage", names), keys=columns["words"]))


@data_sets.register("descriptions")
def package_descriptions(
    source: str = "en", target: str = "it", *, words: int = 12, examples: int = 20_000, seed: int = 0
) -> PairData:
    """Debian's package descriptions in two languages, of at most so many words; a source package stays in one part."""
    found = [pair for pair in descriptions(source, target) if len(pair.source.split()) <= words]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:examples].tolist()
    rows = [found[place] for place in order]
    columns = {"source": tuple(pair.source for pair in rows), "target": tuple(pair.target for pair in rows)}
    whole = RawSplit(columns, tuple(map(str, order)), f"descriptions {source}-{target}")
    return PairData(Divided(whole, groups=[pair.package for pair in rows], keys=columns["source"]))


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
