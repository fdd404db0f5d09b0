"""What a model is called with: its type, its decoder's inputs, its vocabulary, its place; and the errors where that fails."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from fractionate import collect
from fractionate.errors import ConfigError, MismatchError
from fractionate.models.outputs import are_probabilities, call, logits_of
from fractionate.models.placing import place, placed
from fractionate.records import Training
from fractionate.tasks.model_inputs import ModelInputs
from fractionate.training import distill

X = torch.arange(32 * 6).reshape(32, 6).float() / 100
Y = torch.arange(32) % 3
ONE = Training(steps=1, batch_size=16)


class Rows(Dataset):
    def __init__(self, inputs=X):
        self.inputs = inputs

    def __len__(self):
        return 32

    def __getitem__(self, place):
        return self.inputs[place], int(Y[place])


def linear(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Linear(6, 3).to(dtype)


# --- floating-point types ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("data", [(X, Y), Rows()], ids=["memory", "data set"])
def test_a_teacher_of_another_type_gets_inputs_of_its_own(dtype, data, tmp_path):
    teacher = linear(dtype)
    with torch.no_grad():
        outputs = teacher(X.to(dtype))
    store = collect(teacher, data, tmp_path / "s", dtype="float64" if dtype == torch.float64 else "float32")
    assert torch.equal(store.signal().logits, outputs.to(store.signal().logits.dtype))
    _, run = distill(linear(), data, teacher, training=ONE, show="nothing")
    assert run.status == "completed"
    assert teacher.weight.dtype == dtype


@pytest.mark.parametrize(
    "inputs", [X.double(), X.numpy().astype(np.float64), X.half()], ids=["float64", "array", "float16"]
)
def test_data_of_another_type_reach_the_student_in_its_own(inputs):
    for data in ((inputs, Y), Rows(torch.as_tensor(inputs))):
        trained, run = distill(linear(), data, training=ONE, test=data, show="nothing")
        assert trained.weight.dtype == torch.float32 and run.test is not None


def test_names_tuples_and_whole_numbers_are_left_as_they_are():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3).bfloat16()

    from fractionate.data import Batch

    batch = Batch({"ids": torch.arange(3), "x": (X, "text")}, Y, torch.arange(32), views={"teacher": X.double()})
    given = ModelInputs.of(Wide())(batch)
    assert given["ids"].dtype == torch.int64 and given["x"][0].dtype == torch.bfloat16 and given["x"][1] == "text"
    assert ModelInputs.of(Wide())(batch, "teacher").dtype == torch.bfloat16
    assert ModelInputs.of(nn.ReLU())(batch, "teacher").dtype == torch.float64


def test_a_student_in_float16_is_not_scaled():
    with pytest.raises(ConfigError, match=r"float16(.|\n)*student\.float\(\)"):
        distill(linear(torch.float16), (X.half(), Y), training=Training(steps=1, precision="float16"), show="nothing")


# --- decoders ------------------------------------------------------------------------------------------------------------------


def encoder_decoders():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {
        "vocab_size": 30,
        "d_model": 8,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 8,
        "decoder_ffn_dim": 8,
        "max_position_embeddings": 16,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 1,
        "decoder_start_token_id": 0,
        "forced_eos_token_id": None,
    }
    t5 = transformers.T5Config(
        vocab_size=30, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return {
        "t5": transformers.T5ForConditionalGeneration(t5),
        "marian": transformers.MarianMTModel(transformers.MarianConfig(**small)),
        "bart": transformers.BartForConditionalGeneration(transformers.BartConfig(**small)),
    }


@pytest.mark.parametrize("name", ["t5", "marian", "bart"])
def test_a_decoder_s_inputs_are_made_of_the_labels_as_the_model_makes_them(name, tmp_path):
    model = encoder_decoders()[name].eval()
    torch.manual_seed(1)
    ids, labels = torch.randint(2, 30, (8, 7)), torch.randint(2, 30, (8, 5))
    labels[::2, 3:] = -100
    rows = [
        {"input_ids": ids[n], "attention_mask": torch.ones(7, dtype=torch.long), "labels": labels[n]} for n in range(8)
    ]
    store = collect(model, rows, tmp_path / "s", tokens="aligned")
    with torch.no_grad():
        own = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
    torch.testing.assert_close(store.signal().logits, own.logits[labels != -100])
    gentle = Training(steps=1, batch_size=8, learning_rate=1e-9, optimizer="sgd", schedule="constant")
    _, run = distill(model, rows, training=gentle, show="nothing")
    assert run.status == "completed"
    given = [{**row, "decoder_input_ids": torch.zeros(5, dtype=torch.long)} for row in rows]
    other = collect(model, given, tmp_path / "o", tokens="aligned").signal()
    assert not torch.equal(other.logits, store.signal().logits)  # what the data give is taken


def test_a_decoder_that_cannot_make_its_inputs_says_what_it_needs(tmp_path):
    model = encoder_decoders()["t5"]
    model.config.decoder_start_token_id = None
    rows = [{"input_ids": torch.ones(4, dtype=torch.long), "labels": torch.ones(4, dtype=torch.long)}] * 8
    for doing in (
        lambda: collect(model, rows, tmp_path / "s", tokens="aligned"),
        lambda: distill(model, rows, training=ONE, show="nothing"),
    ):
        with pytest.raises(MismatchError, match="decoder's inputs") as caught:
            doing()
        assert "decoder_input_ids" in caught.value.fix


# --- vocabularies, names, positions ---------------------------------------------------------------------------------------------


class Words(nn.Module):
    def __init__(self, words=20):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(words, 4), nn.Linear(4, 3)

    def forward(self, input_ids):
        return self.layer(self.embedding(input_ids).mean(1))


VERBS = {
    "distill": lambda rows, out: distill(Words(), rows, training=ONE, show="nothing"),
    "teacher": lambda rows, out: distill(Words(400), rows, Words(), training=ONE, show="nothing"),
    "collect": lambda rows, out: collect(Words(), rows, out),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("least", [0, -100])
def test_ids_that_an_embedding_does_not_have_are_named(verb, least, tmp_path):
    rows = [{"input_ids": torch.arange(6) + 6 * n + least, "labels": int(Y[n])} for n in range(32)]
    with pytest.raises(MismatchError, match="token ids that the embedding of Words") as caught:
        VERBS[verb](rows, tmp_path / "s")
    assert re.search(r"ids in 0\.\.(19|399)", str(caught.value)) and f"ids {least}.." in caught.value.got


def test_a_sequence_longer_than_a_model_has_positions_is_named():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
                                     max_position_embeddings=5, num_labels=3)  # fmt: skip
    rows = [{"input_ids": torch.ones(9, dtype=torch.long), "labels": int(y)} for y in Y]
    with pytest.raises(MismatchError, match="longer sequences") as caught:
        distill(transformers.BertForSequenceClassification(config), rows, training=ONE, show="nothing")
    assert caught.value.got == "9" and "truncation" in caught.value.fix


def test_columns_that_a_model_does_not_take_are_named(tmp_path):
    rows = [{"input_ids": torch.ones(3, dtype=torch.long), "idx": n, "labels": int(Y[n])} for n in range(32)]
    for doing in (
        lambda: distill(Words(), rows, training=ONE, show="nothing"),
        lambda: collect(Words(), rows, tmp_path / "s"),
    ):
        with pytest.raises(MismatchError, match="does not take 'idx'") as caught:
            doing()
        assert "remove_columns" in caught.value.fix


def test_whole_numbers_given_to_a_model_of_floating_point_numbers_are_named():
    pictures = torch.randint(0, 256, (32, 6), dtype=torch.uint8)
    with pytest.raises(MismatchError, match="computes with floating-point numbers") as caught:
        distill(linear(), (pictures, Y), training=ONE, show="nothing")
    assert "/ 255" in caught.value.fix


@pytest.mark.parametrize("inputs", [torch.randn(32, 8), torch.randn(32, 2, 5)])
def test_inputs_of_another_shape_than_the_model_takes_are_named(inputs, tmp_path):
    for doing in (
        lambda: distill(linear(), (inputs, Y), training=ONE, show="nothing"),
        lambda: collect(linear(), (inputs, Y), tmp_path / "s"),
    ):
        with pytest.raises(MismatchError, match="the model Linear cannot compute with these inputs") as caught:
            doing()
        assert str([*inputs.shape[1:]])[1:-1] in caught.value.got and "torch says" in caught.value.got


def test_an_error_of_the_model_s_own_is_left_to_it():
    class Broken(nn.Module):
        def forward(self, x):
            raise ValueError("a fault of the model's own")

    with pytest.raises(ValueError, match="a fault of the model's own") as caught:
        call(Broken(), X)
    assert not isinstance(caught.value, MismatchError)


# --- outputs ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "output",
    [
        X,
        X.numpy(),
        X.tolist(),
        (X, None),
        {"logits": X},
        {"out": X},
        X.to_sparse(),
        type("Output", (), {"logits": X})(),
    ],
)
def test_one_function_finds_the_logits_of_every_verb(output):
    assert torch.equal(logits_of(output).float(), X)


@pytest.mark.parametrize("output", ["text", None, 3, {"score": X}, [[1.0], [1.0, 2.0]], np.array(["a"])])
def test_what_is_no_output_is_refused(output):
    with pytest.raises(MismatchError, match="cannot find the logits"):
        logits_of(output)


def test_what_probabilities_are():
    p = torch.softmax(torch.randn(64, 1000), 1)
    assert are_probabilities(p) and are_probabilities(p.half()) and are_probabilities(p.bfloat16())
    assert not are_probabilities(p.log()) and not are_probabilities(torch.sigmoid(torch.randn(64, 1000)))
    assert not are_probabilities(torch.randn(64, 3)) and not are_probabilities(torch.zeros(0, 3))


# --- places ----------------------------------------------------------------------------------------------------------------------


class Fixed(nn.Linear):
    """A model that refuses to be moved, as 8-bit models do."""

    def to(self, *_, **__):
        raise ValueError("`.to` is not supported for 8-bit models")


def test_a_model_that_refuses_to_be_moved_is_used_where_it_is(tmp_path):
    fixed, meta = Fixed(6, 3), torch.device("meta")
    assert place(fixed, torch.device("cpu")) == torch.device("cpu")
    assert place(fixed, meta) == torch.device("cpu")
    with placed(fixed, meta) as there:
        assert there == torch.device("cpu")
    spread = linear()
    spread.hf_device_map = {"": "cpu"}
    assert place(spread, meta) == torch.device("cpu") and spread.weight.device.type == "cpu"
    assert place(nn.ReLU(), meta) == meta
    with placed(linear().to(meta), meta) as there:
        assert there == meta
    assert collect(fixed, (X, Y), tmp_path / "s").complete


def test_a_model_is_put_back_where_it_was():
    model = nn.Linear(2, 2)
    with placed(model, torch.device("meta")) as there:
        assert there.type == "meta" and model.weight.device.type == "meta"
        model.to_empty(device="cpu")
    assert model.weight.device.type == "cpu"


def test_the_trainer_uses_a_teacher_where_it_is(tmp_path):
    transformers = pytest.importorskip("transformers")
    datasets = pytest.importorskip("datasets")
    from fractionate.integrations.trainer import Distilling

    class KDTrainer(Distilling, transformers.Trainer):
        pass

    class Frozen(transformers.BertForSequenceClassification):
        def to(self, *_, **__):
            raise ValueError("`.to` is not supported for 8-bit models")

    config = transformers.BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
                                     max_position_embeddings=8, num_labels=3)  # fmt: skip
    rows = datasets.Dataset.from_dict({"input_ids": torch.randint(0, 30, (8, 4)).tolist(), "label": [0, 1] * 4})
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4, report_to=[],
                                               use_cpu=True, disable_tqdm=True, save_strategy="no")  # fmt: skip
    trainer = KDTrainer(model=transformers.BertForSequenceClassification(config), args=arguments, train_dataset=rows,
                        teacher=Frozen(config))  # fmt: skip
    assert trainer.train().global_step == 1
