"""Language models: pairs of tokenizers, text the student writes, and training without logits. Tiny random models."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from fractionate import Objective, collect, distill
from fractionate.data import MemorySplit
from fractionate.data.labels import IGNORED
from fractionate.errors import MismatchError
from fractionate.records import Training
from fractionate.tasks import Needs, Task, reading
from fractionate.tasks.reader import output_layer
from fractionate.teachers import Online
from fractionate.teachers.tokenizer_match import MappedTeacher, check_pair, differences, token_map
from fractionate.teachers.tokens import StoredTokens

CLASSES, END = 23, 1
LETTERS = "abcdefghijklmnopqrst "


class Letters:
    """A tokenizer of letters, with what transformers' tokenizers have."""

    def __init__(self, letters=LETTERS, **more):
        self.letters = letters
        self.bos_token, self.eos_token, self.pad_token, self.unk_token = None, "<end>", "<pad>", None
        self.pad_token_id, self.eos_token_id = 0, END
        self.chat_template, self.padding_side, self.truncation_side = None, "right", "right"
        vars(self).update(more)

    def get_vocab(self):
        return {"<pad>": 0, "<end>": 1} | {letter: i + 2 for i, letter in enumerate(self.letters)}

    def __call__(self, text, add_special_tokens=True):
        known = self.get_vocab()
        return {"input_ids": [known[letter] for letter in text]}


def causal(seed=0, width=16, classes=CLASSES, **more):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=classes, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=32, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, **more,
        )
    )  # fmt: skip


def split_of(texts: Sequence[tuple[Sequence[int], int]]) -> MemorySplit:
    """Token ids and the length of their prompt, as a data source of prompts encodes them."""
    width = max(len(tokens) for tokens, _ in texts)
    ids = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for tokens, _ in texts])
    mask = torch.tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens, _ in texts])
    learned = mask.bool() & (torch.arange(width) >= torch.tensor([[prompt] for _, prompt in texts]))
    return MemorySplit({"input_ids": ids, "attention_mask": mask}, ids.where(learned, IGNORED), "sentences")


def texts_of(split: MemorySplit) -> list[tuple[torch.Tensor, int]]:
    """The reverse of `split_of`."""
    rows = zip(split.inputs["input_ids"], split.inputs["attention_mask"].sum(1).tolist(), split.labels, strict=True)
    return [(ids[:count], int((labels != IGNORED).nonzero()[0])) for ids, count, labels in rows]


@pytest.fixture(scope="module")
def sentences() -> MemorySplit:
    letters, alone = Letters(), ("a dog", "a cat", "sad", "bed", "pear", "ice")
    texts = [*(("", text) for text in alone), ("the ", "mat"), ("a ", "lake")]
    return split_of([([*letters(prompt + text)["input_ids"], END], max(1, len(prompt))) for prompt, text in texts])


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    return causal(1, 32).eval()


EXAMPLE = {"input_ids": torch.tensor([[2, 3, 4]])}


def train(student, data, signal, objective, steps=5, **more):
    more.setdefault("training", Training(steps=steps, batch_size=4, learning_rate=3e-2))
    _, run = distill(student, data, signal, objective=objective, predicts_next=True, show="nothing", **more)
    return torch.cat([p.detach().flatten() for p in student.parameters()]), run


# -- a store ---------------------------------------------------------------------------------------------------------------------


def test_sentences_store_and_training_belong_together(sentences, teacher, tmp_path) -> None:
    """The teacher asked once teaches what the living one teaches; the store knows the tokenizer."""
    store = collect(
        teacher,
        sentences,
        tmp_path / "s",
        tokens="next",
        tokenizer=Letters(),
        batch_size=3,
        class_relation=None,
    )
    objective = Objective("kd", 1.0, 0.5, divergence="forward-kl")
    kept, _ = train(causal(2), sentences, StoredTokens(store), objective)
    living, _ = train(causal(2), sentences, teacher, objective)
    torch.testing.assert_close(kept, living, rtol=1e-4, atol=1e-5)
    other = Letters(chat_template="{{ messages }}")
    with pytest.raises(MismatchError, match="tokenizer"):
        collect(teacher, sentences, tmp_path / "s", tokens="next", tokenizer=other, batch_size=3, class_relation=None)


# -- no logits ---------------------------------------------------------------------------------------------------------------


HIDDEN = Training(steps=5, batch_size=4, learning_rate=3e-2, loss_from="hidden")


@pytest.mark.parametrize("name", ["forward-kl", "reverse-kl", "jsd"])
def test_training_without_logits_is_the_same_training(name: str, sentences, teacher) -> None:
    objective = Objective("kd", 1.0, 0.7, divergence=name)
    plain, run = train(causal(2), sentences, teacher, objective)
    student = causal(2)
    found, same = train(student, sentences, teacher, objective, training=HIDDEN)
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-5)
    assert same.contract == run.contract and same.history[-1].loss == pytest.approx(run.history[-1].loss, rel=1e-4)
    assert student(**EXAMPLE).logits.shape[-1] == CLASSES  # the output layer is as it was
    labels_alone, _ = train(causal(2), sentences, None, None)
    without, _ = train(causal(2), sentences, None, None, training=HIDDEN)
    torch.testing.assert_close(without, labels_alone, rtol=1e-3, atol=1e-5)


def test_compact_rows_teach_without_logits(sentences, teacher, tmp_path) -> None:
    store = collect(
        teacher,
        sentences,
        tmp_path / "s",
        tokens="next",
        form="top-k",
        k=CLASSES - 2,
        batch_size=4,
        class_relation=None,
    )
    objective = Objective("kd", 1.0, 0.7, divergence="forward-kl")
    plain, _ = train(causal(2), sentences, StoredTokens(store), objective)
    found, _ = train(causal(2), sentences, StoredTokens(store, form="compact"), objective, training=HIDDEN)
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-5)


def test_a_head_that_is_not_all_there_is_to_the_logits_is_refused() -> None:
    class Capped(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.lm_head = nn.Embedding(9, 4), nn.Linear(4, 9)

        def forward(self, tokens):
            return 2 * torch.tanh(self.lm_head(self.embed(tokens)) / 2)

    model = Capped()
    model.embed.weight.data.mul_(5)
    with (
        pytest.raises(MismatchError, match="does more to its logits") as error,
        reading(model, Needs(hidden=True), torch.tensor([[1, 2]]), head="lm_head"),
    ):
        pass
    assert "apart" in str(error.value) and "soft cap" in str(error.value)
    with pytest.raises(MismatchError, match="has no linear output layer"):
        output_layer(model)
    with pytest.raises(MismatchError, match="has no linear output layer at 'embed'"):
        output_layer(model, "embed")


def test_scores_of_tokens(sentences, teacher) -> None:
    task = Task("language-modelling", transfer=sentences, batch_size=3)
    with Online(teacher).open(task, sentences, None, Needs()) as opened:
        found = task.evaluate(teacher, sentences, opened)
    tokens = sum(len(t) - p for t, p in texts_of(sentences))
    assert found.rows == tokens and found.examples == len(sentences) and found.values["ta-rate"] == 100
    nll = 0.0
    for tokens, prompt in texts_of(sentences):
        log_q = torch.log_softmax(teacher(input_ids=tokens[None]).logits[0].double(), dim=1)
        nll -= sum(float(log_q[i - 1, tokens[i]].detach()) for i in range(prompt, len(tokens)))
    assert found.values["token-nll"] == pytest.approx(nll / found.rows, rel=1e-5)
    assert found.values["perplexity"] == pytest.approx(math.exp(nll / found.rows), rel=1e-5)
    assert "ta-rate" not in task.evaluate(causal(5), sentences).values


# -- tokenizers ----------------------------------------------------------------------------------------------------------------


def test_the_same_tokenizer_is_one_and_every_difference_is_named() -> None:
    assert check_pair(Letters(), Letters()) == check_pair(Letters(), copy.copy(Letters()))
    other = Letters("bacdefghijklmnopqrst!", chat_template="{{ a }}", padding_side="left", pad_token="<end>")
    with pytest.raises(MismatchError, match="read text differently") as error:
        check_pair(Letters(), other)
    text = str(error.value)
    assert "2 strings have other numbers (first: 'a', 2 and 3)" in text
    assert (
        "1 strings only the student has (first: ' ')" in text and "1 strings only the teacher has (first: '!')" in text
    )
    assert "chat template: none and '{{ a }}'" in text and "padding side: 'right' and 'left'" in text
    assert "pad token: '<pad>' and '<end>'" in text and "token_map" in text
    assert len(differences({"a": 0}, {"a": 0, "b": 1})) == 1


def test_a_map_of_tokens_is_explicit_hashed_and_proved(sentences) -> None:
    wide = Letters(LETTERS[::-1] + "!?")
    found = token_map(Letters(), wide, ["a dog", "ice"])
    assert found.covered == 1.0
    torch.manual_seed(0)
    theirs = causal(4, classes=25).eval()
    mapped = MappedTeacher(theirs, found, fingerprint=found.fingerprint)
    ids = torch.tensor([Letters()("a dog")["input_ids"]])
    expected = theirs(input_ids=torch.tensor([wide("a dog")["input_ids"]])).logits
    got = mapped(ids)
    for letter, number in Letters().get_vocab().items():
        torch.testing.assert_close(got[..., number], expected[..., wide.get_vocab()[letter]])
    weights, _ = train(causal(2), sentences, mapped, Objective("kd", 1.0, 0.5))
    assert bool(torch.isfinite(weights).all())
    with pytest.raises(MismatchError, match="another token map"):
        MappedTeacher(theirs, found, fingerprint="0" * 32)


def test_maps_that_cannot_be_right_are_refused() -> None:
    with pytest.raises(MismatchError, match="too little in common") as error:
        token_map(Letters(), Letters("xyz"), ["a"])
    assert "at least 99%" in str(error.value) and "sequence level" in str(error.value)
    with pytest.raises(MismatchError, match="needs texts"):
        token_map(Letters(), Letters(), [])

    class Pairs(Letters):
        """Cuts "ab" as one token."""

        def get_vocab(self):
            return super().get_vocab() | {"ab": CLASSES}

        def __call__(self, text, add_special_tokens=True):
            plain = super().__call__(text.replace("ab", ""))["input_ids"]
            return {"input_ids": [CLASSES] * text.count("ab") + plain}

    with pytest.raises(MismatchError, match="cut text 1 in other places"):
        token_map(Letters(), Pairs(), ["cd", "abc"])
    unknown = token_map(Letters(), Letters(LETTERS[:-1]), ["ab"], covers=0.9)
    with pytest.raises(MismatchError, match="tokens that the teacher does not know"):
        MappedTeacher(causal(1), unknown, fingerprint=unknown.fingerprint)(torch.tensor([[2, 22]]))
    assert unknown(torch.zeros(1, 22))[0, 22] == -math.inf
