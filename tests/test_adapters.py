"""Users' models, and our objectives in other people's loops. Real libraries, tiny random models where no package holds one."""

from __future__ import annotations

import copy
import os
import warnings
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional

from fractionate import Objective, TeacherSignal
from fractionate.data.labels import IGNORED
from fractionate.errors import ConfigError, MismatchError
from fractionate.integrations.trainer import Distilling, Placed, distillation_loss, lightning_distillation
from fractionate.models.outputs import logits_of, rows
from fractionate.records import Training
from fractionate.training import distill
from fractionate.training.evaluation import evaluate
from test_engine import FAST, digits, mlp, same, teacher_signal

os.environ["HF_HUB_OFFLINE"] = "1"


class Wrapped(nn.Module):
    """A classifier whose output has another form."""

    def __init__(self, form) -> None:
        super().__init__()
        self.body, self.form = mlp(), form

    def forward(self, inputs):
        return self.form(self.body(inputs))


def model_output(logits):
    outputs = pytest.importorskip("transformers.modeling_outputs", reason="needs the extra hf")
    return outputs.SequenceClassifierOutput(logits=logits)


@pytest.mark.parametrize(
    ("form", "head"),
    [
        (lambda x: (x, x.new_zeros(3)), None),
        (lambda x: [x], None),
        (lambda x: {"logits": x}, None),
        (lambda x: {"out": x}, None),
        (model_output, None),
        (lambda x: (x.new_zeros(2), x), 1),
        (lambda x: {"coarse": x[:, :2], "fine": x}, "fine"),
        (lambda x: [[x]], lambda output: output[0][0]),
        (lambda x: x.T.contiguous().T, None),
        (lambda x: x.double(), None),
    ],
    ids=[
        "tuple", "list", "mapping", "out", "ModelOutput", "second head", "named head", "head by function", "strided", "double",
    ],
)  # fmt: skip
def test_outputs_of_every_form_teach_the_same(form, head):
    train, _, _ = digits()
    plain, _ = distill(mlp(), train, teacher_signal(), training=FAST)
    wrapped, run = distill(Wrapped(form), train, teacher_signal(), training=FAST, head=head, validation=train)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain.parameters(), wrapped.parameters(), strict=True))
    assert run.validation.rows == 800


@pytest.mark.parametrize(
    ("form", "what"),
    [
        (lambda x: {"scores": x}, "cannot find the logits"),
        (lambda x: None, "cannot find the logits"),
        (lambda x: x.argmax(1), "not logits"),
        (lambda x: x.to(torch.int8), "not logits"),
        (lambda x: x.to(torch.complex64), "not logits"),
        (lambda x: x[:, :1].squeeze(1), "do not fit the labels"),
        (lambda x: x[:5], "do not fit the labels"),
        (lambda x: x.mean(), "do not fit the labels"),
        (lambda x: x[:, :, None, None], "do not fit the labels"),
        (lambda x: x[:, :1], "different classes"),
        (lambda x: torch.cat([x, x], 1), "different classes"),
    ],
)
def test_what_are_no_logits_is_refused_before_the_first_step(form, what):
    train, _, _ = digits()
    student = Wrapped(form)
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(MismatchError, match=what) as caught:
        distill(student, train, teacher_signal(), training=FAST)
    assert caught.value.exit_code == 4
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


class Tagger(nn.Module):
    """Labels tokens: logits [batch, tokens, classes]."""

    def __init__(self, words: int = 20, classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.layer = nn.Embedding(words, 16), nn.Linear(16, classes)

    def forward(self, input_ids, attention_mask=None):
        return {"logits": self.layer(self.embedding(input_ids))}


def sentences(count: int = 60, words: int = 20) -> list[dict[str, torch.Tensor]]:
    """Token ids of fixed width; the label of a token is its id modulo 5, with padding ignored."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(count):
        ids = torch.randint(1, words, (8,), generator=generator)
        length = int(torch.randint(1, 9, (1,), generator=generator))
        labels = torch.where(torch.arange(8) < length, ids % 5, IGNORED)
        made.append({"input_ids": ids, "attention_mask": (torch.arange(8) < length).long(), "labels": labels})
    return made


@pytest.mark.parametrize("micro", [None, 3])
def test_tokens_are_averaged_over_all_valid_ones_of_a_step(micro):
    data = sentences(12)
    _student, run = distill(
        Tagger(), data, training=Training(steps=1, batch_size=12, micro_batch_size=micro), log_every=1
    )
    logits = Tagger()(torch.stack([item["input_ids"] for item in data]))["logits"]
    labels = torch.stack([item["labels"] for item in data])
    expected = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED).item()
    assert run.history[0].loss == pytest.approx(expected, rel=1e-5)
    _, run = distill(Tagger(), data, training=Training(steps=60, batch_size=12, learning_rate=0.05), validation=data)
    assert run.validation.accuracy == 1.0 and run.validation.rows == int((labels != IGNORED).sum())


def test_a_living_teacher_teaches_tokens():
    data = sentences()
    teacher, _ = distill(Tagger(), data, training=Training(steps=80, batch_size=12, learning_rate=0.05))
    objective = Objective("kd", temperature=1.0, teacher_weight=1.0)
    training = Training(steps=80, batch_size=12, learning_rate=0.05)
    _student, run = distill(Tagger(), data, teacher, objective=objective, training=training, validation=data)
    assert run.validation.accuracy > 0.95


def test_all_ignored_is_a_zero_loss_with_a_gradient_path():
    data = [{**item, "labels": torch.full((8,), IGNORED)} for item in sentences(4)]
    student, run = distill(Tagger(), data, training=Training(steps=2, batch_size=4), log_every=1)
    assert [point.loss for point in run.history] == [0.0, 0.0] and same(student, Tagger())
    signal_free = distillation_loss(Tagger()(data[0]["input_ids"][None]), torch.zeros(1, 8, 5), data[0]["labels"][None])
    signal_free.backward()
    assert float(signal_free.detach()) == 0.0


def test_next_tokens_are_shifted_once():
    logits = torch.arange(24.0).view(1, 4, 6)
    labels = torch.tensor([[1, 2, IGNORED, 3]])
    kept, targets, place = rows(logits, labels, predicts_next=True)
    assert targets.tolist() == [2, 3] and place.tolist() == [0, 0]
    assert torch.equal(kept, logits[0, [0, 2]])


@cache
def contrary() -> nn.Module:
    """A teacher that calls every digit by the next one's name: who agrees with it has not learned from labels."""
    train, _, _ = digits()
    data = (train.inputs, (train.labels + 1) % 10)
    return distill(mlp(99, dropout=0.3), data, training=Training(epochs=12, learning_rate=5e-3))[0]


def test_a_plain_loop_takes_one_line():
    train, _, _ = digits()
    student, teacher = mlp(), contrary().eval()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    objective = Objective("kd", temperature=2.0, teacher_weight=1.0)
    for _ in range(100):
        with torch.no_grad():
            outputs = teacher(train.inputs)
        loss = distillation_loss(student(train.inputs), outputs, train.labels, objective)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    signal = TeacherSignal(outputs, train.labels)
    assert evaluate(student, train, signal=signal).agreement > 0.9
    assert torch.equal(
        distillation_loss(student(train.inputs), signal, train.labels, objective),
        objective(student(train.inputs), signal).sum() / 800,
    )
    with pytest.raises(ConfigError, match="statistics of all the data"):
        distillation_loss(student(train.inputs), outputs, train.labels, Objective("class-mean"))


@pytest.fixture
def bert():
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    sizes = {
        "vocab_size": 20,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 16,
    }

    def build(layers: int, kind="BertForSequenceClassification", labels: int = 3):
        torch.manual_seed(layers)
        config = transformers.BertConfig(**sizes, num_hidden_layers=layers, num_labels=labels)
        return getattr(transformers, kind)(config)

    return build


def texts(count: int = 48) -> list[dict[str, torch.Tensor]]:
    """Token ids whose first decides the class."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 20, (count, 8), generator=generator)
    return [{"input_ids": row, "attention_mask": torch.ones(8).long(), "labels": row[0] % 3} for row in ids]


def test_hugging_face_classifiers_distil(bert):
    data = texts()
    training = Training(steps=40, batch_size=16, learning_rate=5e-3)
    teacher, _ = distill(bert(2), data, training=training)
    _student, run = distill(
        bert(1), data, teacher, objective=Objective(temperature=2.0), training=training, validation=data
    )
    assert run.validation.accuracy > 0.9
    _tagger, run = distill(bert(1, "BertForTokenClassification", 5), sentences(24), training=training)
    assert run.status == "completed"


def test_a_causal_language_model_distils():
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=16, tie_word_embeddings=True,
    )  # fmt: skip
    ids = [torch.arange(start, start + 10) % 32 for start in range(32)]  # the next number follows
    data = [{"input_ids": row, "labels": row} for row in ids]
    training = Training(steps=60, batch_size=8, learning_rate=1e-2)
    teacher, run = distill(
        transformers.LlamaForCausalLM(config), data, training=training, predicts_next=True, validation=data
    )
    assert run.validation.accuracy > 0.95 and run.validation.rows == 32 * 9
    objective = Objective("kd", temperature=1.0, teacher_weight=1.0)
    _, run = distill(
        transformers.LlamaForCausalLM(config), data, teacher, objective=objective, training=training,
        predicts_next=True, validation=data,
    )  # fmt: skip
    assert run.validation.accuracy > 0.95


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stored", [False, True])
def test_hugging_face_trainer_with_three_changed_lines(bert, tmp_path, stored):
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    pytest.importorskip("accelerate", reason="needs the extra hf")
    data = texts()
    teacher, _ = distill(bert(2), data, training=Training(steps=40, batch_size=16, learning_rate=5e-3))
    before = copy.deepcopy(teacher.state_dict())

    class KDTrainer(Distilling, transformers.Trainer):  # 1
        pass

    if stored:
        from fractionate.training.evaluation import signal_on

        given = {"signal": signal_on(teacher, data)}
    else:
        given = {"teacher": teacher}
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=40, per_device_train_batch_size=8, gradient_accumulation_steps=2,
        learning_rate=5e-3, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no", logging_steps=10,
    )  # fmt: skip
    student = bert(1)
    trainer = KDTrainer(
        model=student, args=arguments, train_dataset=data, eval_dataset=data,
        objective=Objective(temperature=2.0), **given,  # 2, 3
    )  # fmt: skip
    trainer.train()
    assert evaluate(student, data).accuracy > 0.9
    assert trainer.evaluate()["eval_loss"] < 1.0
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_a_teacher_stays_where_it_is_and_apart_from_the_student(bert, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")

    class Immovable(transformers.BertForSequenceClassification):
        """As 8-bit models and those spread over devices."""

        def to(self, *arguments, **more):
            raise ValueError("`.to` is not supported for 8-bit models")

    class KDTrainer(Distilling, transformers.Trainer):
        pass

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    student, teacher = bert(1), Immovable(bert(2).config)
    KDTrainer(model=student, args=arguments, train_dataset=texts(8), teacher=teacher).train()
    teacher.bert.embeddings = student.bert.embeddings
    with pytest.raises(MismatchError, match="share"):
        KDTrainer(model=student, args=arguments, train_dataset=texts(8), teacher=teacher)


def test_the_mixin_counts_items_over_the_whole_step(bert):
    """Two pieces of unequal numbers of valid tokens: their sum is the mean over all tokens."""

    class Host:
        model_accepts_loss_kwargs = False
        model = Tagger()

        class args:
            device = torch.device("cpu")

    class Trainer(Distilling, Host):
        pass

    teacher = Tagger(classes=5)
    trainer = Trainer(teacher=teacher, objective=Objective(temperature=2.0))
    student = Tagger().train()
    with torch.no_grad():
        student.layer.weight += 0.1
    batch = torch.utils.data.default_collate(sentences(8))
    valid = int((batch["labels"] != IGNORED).sum())
    whole = trainer.compute_loss(student, dict(batch), num_items_in_batch=valid)
    cut = [{name: value[part] for name, value in batch.items()} for part in (slice(0, 2), slice(2, 8))]
    parts = [trainer.compute_loss(student, piece, num_items_in_batch=valid) for piece in cut]
    assert float(sum(parts).detach()) == pytest.approx(float(whole.detach()), rel=1e-5)
    with pytest.raises(ConfigError, match="give a teacher"):
        Trainer()
    with pytest.raises(ConfigError, match="statistics of all the data"):
        Trainer(teacher=teacher, objective=Objective("ls"))


def test_placed_says_where():
    assert Placed(texts(3))[2]["place"] == 2
    with pytest.raises(MismatchError):
        Placed([(1, 2)])[0]


@pytest.mark.filterwarnings("ignore")
def test_lightning_with_one_changed_line(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch", reason="needs the extra lightning")
    train, _, test = digits()

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, inputs):
            return self.net(inputs)

        def training_step(self, batch, batch_idx):
            inputs, labels = batch
            return functional.cross_entropy(self(inputs), labels)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    teacher = contrary().train()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(train.inputs, train.labels), batch_size=32, shuffle=True
    )
    callback = lightning_distillation(teacher, Objective("kd", temperature=1.0, teacher_weight=1.0))
    module = Classifier()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=6, callbacks=[callback], accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, loader)
    with torch.no_grad():
        outputs = TeacherSignal(teacher.eval()(test.inputs), test.labels)
    assert evaluate(module, test, signal=outputs).agreement > 0.9
    assert module.training_step.__func__ is Classifier.training_step
    _student, run = distill(Classifier(), train, training=FAST)  # and a Lightning module is a module
    assert run.status == "completed"


def test_logits_are_found_by_attribute():
    class Output:
        def __init__(self):
            self.logits, self.aux = torch.zeros(2, 3), torch.ones(2, 4)

    assert logits_of(Output()).shape == (2, 3) and logits_of(Output(), "aux").shape == (2, 4)
