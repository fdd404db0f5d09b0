"""Language models: sentences, pairs of tokenizers, text the student writes, and training without logits. Tiny random models."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from fractionate import Objective, collect, distill
from fractionate.data.labels import IGNORED
from fractionate.errors import ConfigError, MismatchError
from fractionate.records import Training
from fractionate.tasks import Needs, Task, reading
from fractionate.tasks.reader import output_layer
from fractionate.teachers import Online
from fractionate.teachers.sentences import Sentences, read_sentences
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


@pytest.fixture(scope="module")
def sentences() -> Sentences:
    return read_sentences(
        Letters(), ["a dog", "a cat", ("the ", "mat"), "sad", "bed", ("a ", "lake"), "pear", "ice"], longest=10
    )


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    return causal(1, 32).eval()


EXAMPLE = {"input_ids": torch.tensor([[2, 3, 4]])}


def train(student, data, signal, objective, steps=5, **more):
    more.setdefault("training", Training(steps=steps, batch_size=4, learning_rate=3e-2))
    _, run = distill(student, data, signal, objective=objective, predicts_next=True, show="nothing", **more)
    return torch.cat([p.detach().flatten() for p in student.parameters()]), run


# -- sentences -----------------------------------------------------------------------------------------------------------------


def test_labels_are_the_completion_and_what_cannot_be_used_is_counted() -> None:
    found = read_sentences(Letters(), ["ab", ("cd", "e"), "", "  ", ("a", ""), "abcdefgh", "b"], longest=6)
    assert [t.tolist() for t in found.tokens] == [[2, 3, 1], [4, 5, 6, 1], [3, 1]]
    assert found.prompts == (1, 2, 1) and found.skipped == {"empty": 3, "over-long": 1}
    batch = next(found.as_split().batches([(0, torch.tensor([0, 1]))], 0))
    assert batch.labels.tolist() == [[IGNORED, 3, 1, IGNORED], [IGNORED, IGNORED, 6, 1]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    cut = read_sentences(Letters(), ["abcdefgh"], longest=4, over_long="cut")
    assert cut.tokens[0].tolist() == [2, 3, 4, 5]


def test_nothing_left_and_over_long_texts_are_errors_that_say_so() -> None:
    with pytest.raises(MismatchError, match="there is no data") as error:
        read_sentences(Letters(), ["", " ", "a" * 40], longest=8)
    assert "2 empty, 1 over-long" in str(error.value)
    with pytest.raises(MismatchError, match="text 1 is too long") as error:
        read_sentences(Letters(), ["a", "a" * 40], longest=8, over_long="refuse")
    assert "at most 8 tokens" in str(error.value) and "41" in str(error.value)
    with pytest.raises(ConfigError, match="cannot be read so"):
        read_sentences(Letters(), ["ab"], longest=1)


@pytest.mark.parametrize(
    "texts",
    [
        [("ab", "cd"), "ef"],
        [["ab", "cd"], "ef"],
        [{"prompt": "ab", "completion": "cd"}, {"text": "ef"}],
        iter([{"completion": "cd", "prompt": "ab"}, "ef"]),
    ],
)
def test_texts_in_every_form_that_is_read(texts) -> None:
    found = read_sentences(Letters(), texts, longest=9)
    assert [t.tolist() for t in found.tokens] == [[2, 3, 4, 5, 1], [6, 7, 1]] and found.prompts == (2, 1)


def test_rows_of_datasets_are_texts() -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"prompt": ["ab"], "completion": ["cd"]})
    assert read_sentences(Letters(), rows, longest=9).prompts == (2,)
    with pytest.raises(MismatchError, match=r"text 0 is of a form(.|\n)*a mapping of id, prompt, completion"):
        read_sentences(Letters(), rows.add_column("id", [1]).select_columns(["id", "prompt", "completion"]), longest=9)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"question": "ab", "answer": "cd"}, "a mapping of question, answer"),
        ({"messages": [{"role": "user", "content": "ab"}]}, "a mapping of messages"),
        ({"prompt": [{"role": "user", "content": "ab"}], "completion": [{"role": "assistant"}]}, "list and list"),
        ({"prompt": "ab", "completion": None}, "str and NoneType"),
        ({"prompt": "ab"}, "a mapping of prompt"), ({}, "a mapping of"), (("ab", 3), "str and int"),
        (("ab", "cd", "ef"), "tuple of 3"), ((), "tuple of 0"), (3, "int"), (None, "NoneType"), (b"ab", "bytes"),
        ([2, 3, 4], "list of 3"),
    ],
)  # fmt: skip
def test_texts_of_another_form_are_named_by_their_place(item, message) -> None:
    with pytest.raises(MismatchError, match=rf"text 1 is of a form that is not read(.|\n)*got: *{message}(.|\n)*fix"):
        read_sentences(Letters(), ["ab", item], longest=9)


def test_columns_and_single_texts_are_no_lists_of_texts() -> None:
    pandas = pytest.importorskip("pandas")
    columns = {"prompt": ["ab"], "completion": ["cd"]}
    for texts in ("abc", b"abc", columns, pandas.DataFrame(columns), pandas.Series(["ab"]), {"ab"}, 3, None):
        with pytest.raises(ConfigError, match="this is no list of texts"):
            read_sentences(Letters(), texts, longest=9)


def words_with(template, **marks):
    """A tokenizer of whole words of transformers, which puts special tokens around a text by itself."""
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import PreTrainedTokenizerFast

    known = {word: n for n, word in enumerate(["[UNK]", "<s>", "</s>", "[SEP]", "a", "b", "c", "d"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    if template:
        special = [(word, known[word]) for word in ("<s>", "</s>", "[SEP]")]
        made.post_processor = tokenizers.processors.TemplateProcessing(single=template, special_tokens=special)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", **marks)


BOTH = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize(
    ("template", "marks", "more", "around"),
    [
        ("<s> $A </s>", BOTH, {}, ("<s>", "</s>")),
        ("<s> $A", BOTH, {}, ("<s>", "</s>")),
        ("$A </s>", BOTH, {}, ("", "</s>")),
        ("", BOTH, {}, ("", "</s>")),
        ("<s> $A </s>", BOTH, {"end": False}, ("<s>", "")),
        ("<s> $A [SEP]", {"sep_token": "[SEP]"}, {}, ("<s>", "[SEP]")),
        ("<s> $A [SEP]", BOTH, {}, ("<s>", "[SEP] </s>")),
        ("<s> [SEP] $A </s>", BOTH, {}, ("<s> [SEP]", "</s>")),
    ],
)
def test_special_tokens_stand_once_around_prompt_and_completion(template, marks, more, around) -> None:
    words = words_with(template, **marks)
    begin, end = (part.split() for part in around)
    texts = [("a b", "c d"), "a b c", ("<s> a b", "c d </s>"), ("a", "</s> b")]
    found = read_sentences(words, texts, longest=32, **more)
    entries = [words.convert_ids_to_tokens(tokens.tolist()) for tokens in found.tokens]
    assert entries[0] == [*begin, "a", "b", "c", "d", *end] and found.prompts[0] == len(begin) + 2
    assert entries[1] == [*begin, "a", "b", "c", *end] and found.prompts[1] == max(1, len(begin))
    assert entries[3][len(begin) : len(begin) + 3] == ["a", "</s>", "b"], "what a text itself says stays"
    if around == ("<s>", "</s>"):
        assert entries[2] == entries[0], "a chat template may have added them"


def test_special_tokens_that_cannot_be_told_are_refused() -> None:
    class Odd(Letters):
        def __call__(self, text, add_special_tokens=True):
            return {"input_ids": [9] if add_special_tokens else [3, 4]}

    with pytest.raises(ConfigError, match="special tokens of this tokenizer"):
        read_sentences(Odd(), ["ab"], longest=9)


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
    with Online(teacher).open(task, task.splits.transfer, None, Needs()) as opened:
        found = task.evaluate(teacher, task.splits.transfer, opened)
    tokens = sum(len(t) - p for t, p in zip(sentences.tokens, sentences.prompts, strict=True))
    assert found.rows == tokens and found.examples == len(sentences) and found.values["ta-rate"] == 100
    nll = 0.0
    for tokens, prompt in zip(sentences.tokens, sentences.prompts, strict=True):
        log_q = torch.log_softmax(teacher(input_ids=tokens[None]).logits[0].double(), dim=1)
        nll -= sum(float(log_q[i - 1, tokens[i]].detach()) for i in range(prompt, len(tokens)))
    assert found.values["token-nll"] == pytest.approx(nll / found.rows, rel=1e-5)
    assert found.values["perplexity"] == pytest.approx(math.exp(nll / found.rows), rel=1e-5)
    assert "ta-rate" not in task.evaluate(causal(5), task.splits.transfer).values


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
