from __future__ import annotations

import html.parser
import json
import subprocess
import sys
from dataclasses import replace

import markdown_it
import pytest
import torch
from torch import nn

from fractionate.data.picture_files import PictureEncoding
from fractionate.errors import MismatchError, NumericsError
from fractionate.models.export import accuracy_interval, export_student
from fractionate.records import Scores
from fractionate.training import distill
from fractionate.training.cost import measure_cost
from test_engine import FAST, digits, mlp, teacher_signal


@pytest.fixture(scope="module")
def trained():
    train, _, test = digits()
    return distill(mlp(dropout=0.2), train, teacher_signal(), training=FAST, test=test)


def test_the_folder_reloads_without_this_package(trained, tmp_path):
    student, run = trained
    _, _, test = digits()
    out = export_student(
        student, tmp_path, run=run, example=test.inputs[:3], name="tiny\x1b[2J", data="scikit-learn's digits",
        class_names=tuple("0123456789"), licence="apache-2.0",
    )  # fmt: skip
    torch.save(test.inputs, tmp_path / "inputs.pt")
    program = """
import sys, json, torch
from safetensors.torch import load_file
folder = sys.argv[1]
inputs = torch.load(folder + "/inputs.pt", weights_only=True)
student = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(32, 10)).eval()
student.load_state_dict(load_file(folder + "/model.safetensors"))
whole = torch.export.load(folder + "/model.pt2").module()
assert not [name for name in sys.modules if name.startswith("fractionate")]
print(json.dumps([student(inputs).argmax(1).tolist(), whole(inputs).argmax(1).tolist()]))
"""
    found = subprocess.run([sys.executable, "-c", program, str(out)], capture_output=True, text=True, check=True)
    plain, exported = json.loads(found.stdout)
    expected = student.eval()(test.inputs).argmax(1).tolist()
    assert plain == exported == expected
    assert (out / "model.pt2").stat().st_size < 60_000  # none of the data lies in it, of which the example is a view
    assert torch.export.load(out / "model.pt2").example_inputs is None
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name") and "\x1b" not in card
    for part in ("scikit-learn's digits", "95 % interval", str(run.contract), "torch.export", "apache-2.0"):
        assert part in card, part
    assert json.loads((out / "config.json").read_text())["id2label"]["3"] == "3"


@pytest.mark.filterwarnings("ignore")
def test_onnx_says_the_same(trained, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    pytest.importorskip("onnxscript", reason="needs the extra export")
    student, run = trained
    _, _, test = digits()
    out = export_student(student, tmp_path, run=run, example=test.inputs[:3], program=False, onnx=True)
    assert "ONNX Runtime" in (out / "README.md").read_text() and not (out / "model.pt2").exists()
    import onnxruntime

    program = onnxruntime.InferenceSession(out / "model.onnx")  # takes batches of any size
    outputs = program.run(None, {program.get_inputs()[0].name: test.inputs[:7].numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(outputs), student.eval()(test.inputs[:7]))


def test_a_program_that_says_something_else_is_refused(tmp_path):
    class Restless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, inputs):
            return self.layer(inputs) + torch.rand(3)

    with pytest.raises(NumericsError, match="does not say what the student says"):
        export_student(Restless(), tmp_path, example=torch.zeros(2, 4))
    assert not (tmp_path / "model.pt2").exists()


def test_a_student_that_cannot_be_exported_is_handed_over_without_a_program(tmp_path):
    class Choosing(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs) if inputs.sum() > 0 else super().forward(-inputs)

    example = torch.ones(2, 4)
    with pytest.raises(MismatchError, match="cannot export this student"):
        export_student(Choosing(4, 3), tmp_path, example=example)
    out = export_student(Choosing(4, 3), tmp_path, example=example, strict=False)
    assert (out / "model.safetensors").exists() and not (out / "model.pt2").exists()
    assert "torch.export: none; torch.export cannot export this student" in (out / "README.md").read_text()


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_students_go_out_their_own_way(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=1,
        max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    student = transformers.BertForSequenceClassification(config).eval()
    example = {"input_ids": torch.arange(8).view(1, 8), "attention_mask": torch.ones(1, 8).long()}
    out = export_student(student, tmp_path, example=example)
    back = transformers.AutoModelForSequenceClassification.from_pretrained(out)
    torch.testing.assert_close(back.eval()(**example).logits, student(**example).logits)
    assert (out / "README.md").exists() and (out / "model.pt2").exists()
    named = export_student(student, tmp_path / "named", class_names=("up", "down", "level"), program=False)
    back = transformers.AutoModelForSequenceClassification.from_pretrained(named)
    assert back.config.id2label[2] == "level" and back.config.label2id == {"up": 0, "down": 1, "level": 2}
    student.config.id2label = {0: "a", 1: "b", 2: "c"}
    own = export_student(student, tmp_path / "own", class_names=("up", "down", "level"), program=False)
    assert transformers.AutoConfig.from_pretrained(own).id2label[0] == "a", "a model's own names stay"


@pytest.mark.filterwarnings("ignore")
def test_pictures_go_out_with_an_image_processor(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    image = pytest.importorskip("PIL.Image")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=24, patch_size=8, num_labels=3
    )  # fmt: skip
    student = transformers.ViTForImageClassification(config).eval()
    encoding = PictureEncoding.of(("up", "down", "level"), 24, "imagenet")
    out = export_student(
        student, tmp_path / "out", class_names=encoding.class_names, image_processor=encoding.image_processor(), program=False
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (4, 4, 3), dtype=torch.uint8, generator=generator).repeat_interleave(16, 0)
    image.fromarray(blocks.repeat_interleave(16, 1).numpy()).save(tmp_path / "one.png")
    back = transformers.AutoModelForImageClassification.from_pretrained(out).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(out)
    inputs = processor(image.open(tmp_path / "one.png"), return_tensors="pt")
    torch.testing.assert_close(inputs["pixel_values"], encoding.encode([tmp_path / "one.png"]), rtol=0, atol=0.05)
    with torch.no_grad():
        torch.testing.assert_close(
            back(**inputs).logits, student(encoding.encode([tmp_path / "one.png"])).logits, atol=0.02, rtol=0
        )
    assert back.config.id2label[1] == "down"


def test_wilson_s_interval():
    from scipy.stats import binomtest

    for right, examples in ((45, 50), (0, 10), (10, 10), (1, 2000)):
        found = accuracy_interval(Scores(examples, examples, {"accuracy": 100 * right / examples}))
        expected = binomtest(right, examples).proportion_ci(method="wilson")
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_what_a_model_needs():
    found = measure_cost(mlp(), torch.zeros(1, 64), name="student")
    assert found["student_parameters"] == 64 * 32 + 32 + 32 * 10 + 10
    assert found["student_megabytes"] == pytest.approx(found["student_parameters"] * 4e-6)
    assert found["student_latency_ms"] > 0
    # the widest moment: the hidden layer before and after its ReLU (the logits come when the first of them is gone)
    assert found["student_forward_megabytes"] == pytest.approx(2 * 32 * 4e-6)


HOSTILE = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "![x](https://example.org/pixel.png)", "[x](javascript:alert(1))",
    "<!-- ", "-->", "</code></pre><iframe src=x>", "``` ```\n</code><svg onload=alert(1)>", "~~~", "a`b``c```d", "<a href=x>",
    "\n# heading\n", "| a | b |", "\x1b]0;x\x07", "\u202eabc", "$\\\\frac$", "&lt;b&gt;",
    "\n---\nlicense: evil\n", "<details open ontoggle=x>",
    "\\\\<b>", "[ref]: https://example.org", "<https://example.org>",
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_no_name_is_more_than_text_on_the_card(trained, tmp_path, text):
    student, run = trained
    contract = replace(run.contract, formula=text, cell=text)
    hostile = replace(
        run,
        arm=text,
        contract=contract,
        versions={text: text},
        cost={text: 1.0},
        settings={"teacher": text, "data": text},
    )
    export_student(student, tmp_path, run=hostile, name=text, data=text, class_names=(text, "b"), licence=text)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert all(c.isprintable() or c == "\n" for c in card)
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert [line.partition(":")[0] for line in front.splitlines()] == ["library_name", "tags", "license"]
    page = markdown_it.MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(body)
    own = markdown_it.MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(
        body_of(trained, tmp_path / "plain")
    )
    assert tags(page) == tags(own)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"]["0"] == text


def body_of(trained, out):
    """The same card with plain names."""
    student, run = trained
    plain = replace(
        run,
        versions={"x": "x"},
        cost={"x": 1.0},
        settings={"teacher": "x", "data": "x"},
        contract=replace(run.contract, formula="x", cell="x"),
    )
    export_student(student, out, run=plain, name="x", data="x", class_names=("x", "b"), licence="x")
    return (out / "README.md").read_text(encoding="utf-8").split("\n---\n", 1)[1]


def tags(page):
    """The tags of an HTML page in their order, with their attributes."""
    seen = []

    class Tags(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.append((tag, attrs))

        def handle_comment(self, data):
            seen.append(("comment", data))

    Tags().feed(page)
    return seen
