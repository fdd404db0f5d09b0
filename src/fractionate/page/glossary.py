"""Words that a reader may not know, explained where they first stand in a text: on hover, tap or focus."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from fractionate.page.text import unparted
from fractionate.system.plain_text import clean

GLOSSARY: dict[str, str] = {
    "95 % intervals": "The range that holds the true value in 95 of 100 such studies.",
    "95 % interval": "The range that holds the true value in 95 of 100 such studies.",
    "ECE": "Expected calibration error: how far stated confidence is from the share that is right. 0 is best.",
    "Holm": "A correction for many comparisons: one of them may seem to win by luck.",
    "NLL": "Negative log-likelihood of the label, in nats: it also counts how sure a wrong answer was. Less is better.",
    "Shapley value": "A level's gain, averaged over every order in which the levels can be added.",
    "Student’s t": "The usual interval for a mean of few values.",
    "agreement": "How often student and teacher have the same first choice.",
    "domain": "What the teacher says of a class: the same for all its examples.",
    "instance": "What the teacher says of one example, beyond its class.",
    "log K": "The most that can be known: of K classes, which one.",
    "margin": "Differences smaller than this do not matter in practice.",
    "nats": "Units of information; 0.69 nats are one bit.",
    "no teacher": "Trained on the labels alone, with the same data, seeds and steps.",
    "placebo": "A control: targets as soft as the teacher's, but about the wrong examples or classes.",
    "placebos": "Controls: targets as soft as the teacher's, but about the wrong examples or classes.",
    "seeds": "Repetitions with other initial weights and another order of the data.",
    "superfeature": "A group of input columns that the models explain as one.",
    "temperature": "Above 1, the teacher's probabilities are flattened before they are learned.",
    "universe": "What is the same for all examples: how sure the teacher is on average.",
    "variant": "One way to train the student; all variants share data, seeds and steps.",
    "variants": "Ways to train the student; all share data, seeds and steps.",
}
_WORDS = re.compile(
    "|".join(rf"(?<![\w-]){re.escape(word)}(?![\w-])" for word in sorted(GLOSSARY, key=len, reverse=True))
)


def glossed(words: object) -> Markup:
    """A text with the first place of each known word explained."""
    text, seen, parts, at = clean(words), set(), [], 0
    for found in _WORDS.finditer(text):
        word = found.group()
        if word in seen:
            continue
        seen.add(word)
        parts += [escape(unparted(text[at : found.start()]))]
        parts += [Markup('<dfn title="{}">{}</dfn>').format(GLOSSARY[word], unparted(word))]
        at = found.end()
    return Markup("").join([*parts, escape(unparted(text[at:]))])
