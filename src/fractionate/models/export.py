"""The student as the ecosystem takes it: a folder with safetensors, config and model card; torch.export and ONNX, checked.

Nothing in the folder needs this package to be read.
"""

from __future__ import annotations

import html as html_text
import io
import json
import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fractionate.errors import FractionateError, MismatchError, NumericsError, extra, reason, visible
from fractionate.models.lora import merged
from fractionate.models.modes import eval_mode, plain_module, plain_state
from fractionate.models.outputs import Head, call, device_of, logits_of
from fractionate.models.placing import check_ready
from fractionate.models.tokenizer import save_tokenizer
from fractionate.models.weights import check_saveable, to_bytes
from fractionate.records import Interval, Run, Scores
from fractionate.records.base import escaped
from fractionate.system.atomic import make_directory, write_file

FILES = {"torch.export": "model.pt2", "ONNX Runtime": "model.onnx"}
PARITY = 1e-4  # the largest difference of logits that an exported program may show


def accuracy_interval(scores: Scores, coverage: float = 0.95) -> Interval:
    """Wilson's interval for an accuracy (Wilson 1927): right also near 0 and 1 and for few examples."""
    z = {0.9: 1.6448536269514722, 0.95: 1.959963984540054, 0.99: 2.5758293035489004}[coverage]
    n, p = scores.examples, scores.accuracy
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(max(0.0, middle - half), min(1.0, middle + half), coverage)


def export_student(
    student: nn.Module,
    out: Path | str,
    *,
    run: Run | None = None,
    example: Any = None,
    name: str = "student",
    data: str = "",
    class_names: tuple[str, ...] = (),
    licence: str = "",
    head: Head = None,
    program: bool = True,
    onnx: bool = False,
    strict: bool = True,
    tokenizer: Any = None,
    image_processor: Mapping[str, Any] | None = None,
) -> Path:
    """Export a student for use without this package: `model.safetensors`, `config.json`, `README.md`, and programs.

    Programs need `example` inputs; each is loaded again and its logits compared before it is written. Wrappers of torch.compile,
    DataParallel and DDP are removed and adapters of peft merged in a copy, so that the weights load without them. A Hugging Face
    model writes its config and weights by `save_pretrained`.

    Args:
        student: The trained model.
        out: The folder.
        run: The record of its training, for the card.
        example: A batch of inputs; the first axis of tensors may have any size.
        name: Of the model, for the card.
        data: The training data, for the card.
        class_names: Of its classes; also in the config of a Hugging Face model that calls them LABEL_0, LABEL_1, ….
        licence: For the card.
        head: Where the logits are in its output.
        program: With `example`: write `model.pt2`, the program of `torch.export`.
        onnx: With `example`: write that of ONNX.
        strict: Raise where a program cannot be made; else the card says what was wrong.
        tokenizer: Saved with it, for `AutoTokenizer.from_pretrained(out)`.
        image_processor: The JSON of one, for `AutoImageProcessor`.

    Returns:
        The folder.

    Raises:
        NumericsError: where a program's logits differ by more than 1e-4.
        MismatchError: where a student cannot be exported.
        MissingExtraError: without the libraries.

    Example:
        import torch
        from torch import nn
        from fractionate.models import export_student

        print(export_student(nn.Linear(8, 4), "student", class_names=("a", "b", "c", "d")))
    """
    check_ready(student)
    check_saveable(student)
    out, student = make_directory(out), merged(plain_module(student))
    save_pretrained: Any = getattr(student, "save_pretrained", None)
    if callable(save_pretrained):
        state = plain_state(student)
        with redirect_stderr(io.StringIO()):  # a bar for each shard
            save_pretrained(out, **({} if state.keys() == student.state_dict().keys() else {"state_dict": state}))
        _name_classes(out / "config.json", class_names)
    else:
        content, aliases = to_bytes(plain_state(student), {"format": "pt"})
        write_file(out / "model.safetensors", content)
        config = {
            "architectures": [type(student).__name__],
            "num_labels": len(class_names) or None,
            "id2label": {str(i): name for i, name in enumerate(class_names)},
            "shared_tensors": aliases,
            "torch_version": torch.__version__,
        }
        write_file(out / "config.json", escaped(json.dumps(config, indent=2, ensure_ascii=False)).encode())
    if tokenizer is not None:
        save_tokenizer(tokenizer, out)
    if image_processor is not None:
        write_file(out / "preprocessor_config.json", json.dumps(dict(image_processor), indent=2).encode())
    makers = {"torch.export": (program, _export_program), "ONNX Runtime": (onnx, _export_onnx)}
    programs: dict[str, float | str] = {}
    for kind, (wanted, make) in makers.items():
        if example is not None and wanted:
            try:
                programs[kind] = make(student, example, out, head)
            except (NumericsError, MismatchError) as error:
                if strict:
                    raise
                programs[kind] = f"{error.what}: {error.got}"
    write_file(out / "README.md", model_card(student, run, name, data, class_names, licence, programs).encode())
    return out


def _name_classes(file: Path, names: tuple[str, ...]) -> None:
    """Names of the classes in a config that calls them LABEL_0, LABEL_1, …; one of another number of labels has its own."""
    if not names or not file.is_file():
        return
    config = json.loads(file.read_text(encoding="utf-8"))
    plain = {str(number): f"LABEL_{number}" for number in range(len(names))}
    # two classes are the default, which a config does not write down
    if config.get("id2label", plain if len(names) == 2 else None) == plain:
        numbered = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
        write_file(file, escaped(json.dumps(config | numbered, indent=2, ensure_ascii=False)).encode())


def _arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, dict):
        return (), example
    return (tuple(example) if isinstance(example, (tuple, list)) else (example,)), {}


def _free_batch(example: Any) -> dict[str, Any] | None:
    """The first axis of every input of `_Logits` may be of any size, where the model lets it; none for named inputs."""
    free = {0: torch.export.Dim.AUTO}
    positional, named = _arguments(example)
    return None if named else {"positional": tuple(free for _ in positional)}


class _Logits(nn.Module):
    """A student that gives its logits alone: what a program for deployment should answer."""

    def __init__(self, student: nn.Module, head: Head) -> None:
        super().__init__()
        self.student, self.head = student, head

    def forward(self, *positional: Any, **named: Any) -> Tensor:
        return logits_of(self.student(*positional, **named), self.head)


def _check(kind: str, outputs: Tensor, expected: Tensor) -> float:
    difference = float((outputs - expected).abs().max())
    if not difference <= PARITY:
        raise NumericsError(
            f"the program of {kind} does not say what the student says",
            expected=f"logits that differ by at most {PARITY:g}",
            got=f"{difference:.3g}",
            fix="do not deploy it; see whether the student draws at random or depends on the batch in evaluation mode",
        )
    return difference


def _expected(student: nn.Module, example: Any, head: Head) -> Tensor:
    with eval_mode(student):
        return logits_of(call(student, example), head).float().cpu()


@contextmanager
def _exporting(kind: str) -> Iterator[None]:
    """Exporters raise whatever the model makes them raise, and talk while they do."""
    notes = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript")}
    try:
        for name in notes:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (FractionateError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise MismatchError(
            f"{kind} cannot export this student",
            got=reason(error, 300),
            fix="leave the program out, or keep what depends on the numbers out of the student's forward",
        ) from error
    finally:
        for name, level in notes.items():
            logging.getLogger(name).setLevel(level)


def _export_program(student: nn.Module, example: Any, out: Path, head: Head) -> float:
    positional, named = _arguments(example)
    written = io.BytesIO()
    with eval_mode(student), _exporting("torch.export"):
        requested = _Logits(student, head).eval()
        program = torch.export.export(requested, positional, named, dynamic_shapes=_free_batch(example))
        program.example_inputs = (
            None  # else they lie in the file: the data are not for everybody, and views bring all of them
        )
        torch.export.save(program, written)
        written.seek(0)
        back = torch.export.load(written).module()
        outputs = logits_of(back(*positional, **named), None)
    difference = _check("torch.export", outputs.float().cpu(), _expected(student, example, head))
    write_file(out / FILES["torch.export"], written.getbuffer())
    return difference


def _export_onnx(student: nn.Module, example: Any, out: Path, head: Head) -> float:
    with extra("export", "ONNX is not installed"):
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    positional, named = _arguments(example)
    with eval_mode(student), _exporting("ONNX"):
        requested = _Logits(student, head).eval()
        made: Any = torch.onnx.export(
            requested, positional, kwargs=named, dynamic_shapes=_free_batch(example), dynamo=True, verbose=False
        )
        content: bytes = made.model_proto.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        given = [*positional, *named.values()]
        feeds = {entry.name: value.cpu().numpy() for entry, value in zip(session.get_inputs(), given, strict=True)}
        outputs = torch.from_numpy(session.run(None, feeds)[0])
    difference = _check("ONNX Runtime", outputs.float(), _expected(student, example, head))
    write_file(out / FILES["ONNX Runtime"], content)
    return difference


def _one_line(text: str) -> str:
    return "".join(c for c in text if c.isprintable()).strip()


def _plain(text: str) -> str:
    """Foreign text in a line of Markdown, shown as it is: no tag, no link, no picture, no formula."""
    return re.sub(r"([\\`*_\[\]~|$#])", r"\\\1", html_text.escape(_one_line(text), quote=False))


def _fence(text: str, least: int) -> str:
    """Backticks enough to hold a text that has some itself."""
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))


def _code(text: str) -> str:
    """Foreign text as code within a line."""
    line = _one_line(text)
    fence = _fence(line, 1)
    return f"{fence}{line}{fence}" if len(fence) == 1 else f"{fence} {line} {fence}"


def model_card(
    student: nn.Module,
    run: Run | None,
    name: str,
    data: str,
    class_names: tuple[str, ...],
    licence: str,
    programs: dict[str, float | str],
) -> str:
    """The card as Markdown with the hub's front matter: data, teacher's hash, scores with intervals, the loss contract."""
    parameters = sum(p.numel() for p in student.parameters())
    front = {"library_name": "pytorch", "tags": ["knowledge-distillation"], "license": _one_line(licence) or "unknown"}
    # in YAML's escapes where a page might take it for a tag: not every reader knows the front matter
    shown = {
        key: re.sub("[<>&]", lambda c: f"\\u{ord(c[0]):04x}", json.dumps(value, ensure_ascii=False))
        for key, value in front.items()
    }
    lines = ["---", *(f"{key}: {value}" for key, value in shown.items()), "---", ""]
    lines += [
        f"# {_plain(name)}",
        "",
        f"A {type(student).__name__} with {parameters:,} parameters, on {device_of(student)}.",
    ]
    lines += ["", "## Data", "", _plain(data) or "not stated", ""]
    if class_names:
        lines += [f"{len(class_names)} classes: {_plain(', '.join(class_names[:50]))}", ""]
    if run is not None:
        lines += [
            "## Training",
            "",
            f"Arm {_code(run.arm)}, seed {run.seed}, {run.steps:,} steps, {run.wall_seconds:.0f} s.",
        ]
        teacher = run.settings.get("teacher")
        lines += ["", f"Teacher: {f'xxh3-128 {_code(str(teacher))}' if teacher else 'none recorded'}."]
        if run.settings.get("data"):
            lines += [f"Data: xxh3-128 {_code(str(run.settings['data']))}."]
        contract = (
            str(run.contract) if run.contract is not None else "loss = H(label, softmax(student)): the labels alone"
        )
        fence = _fence(contract, 3)
        lines += ["", fence, *map(str.rstrip, map(visible, contract.splitlines())), fence, ""]
        compared = run.settings.get("compared_with_no_teacher")
        if compared and run.contract is not None:
            lines += [f"Against no teacher under the same training: {_code(str(compared))}.", ""]
        for part, scores in (("validation", run.validation), ("test", run.test)):
            if scores is not None:
                line = f"- {part} ({scores.examples:,} examples): {scores.describe(run.metrics)}"
                if "accuracy" in scores.values:
                    between = accuracy_interval(scores)
                    line += f"; accuracy 95 % interval {between.low:.2%} to {between.high:.2%}"
                lines.append(line)
        if run.cost:
            lines += ["", "## Cost", ""] + [
                f"- {_plain(key.replace('_', ' '))}: {value:{',.0f' if value >= 100 else ',.3g'}}"
                for key, value in run.cost.items()
            ]
        lines += ["", "Versions: " + ", ".join(_plain(f"{key} {value}") for key, value in run.versions.items()) + "."]
    if programs:
        lines += ["", "## Exported programs", ""]
        for kind, found in programs.items():
            same = f"`{FILES[kind]}`, logits differ from the student's by at most"
            lines += [f"- {kind}: " + (f"{same} {found:.2g}" if isinstance(found, float) else f"none; {_plain(found)}")]
    return "\n".join(lines) + "\n"
