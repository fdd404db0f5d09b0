"""Our objectives in other people's loops: a plain function, a mixin for Hugging Face `Trainer`, a Lightning callback.

Each takes at most five changed lines. None of them is a second loop: order, steps and checkpoints stay the host's.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from fractionate.data.dataset import as_batch
from fractionate.data.items import label_name
from fractionate.data.labels import IGNORED, check_same_labels
from fractionate.data.rows import kind_of
from fractionate.errors import ConfigError, MismatchError, extra
from fractionate.losses.objective import Objective
from fractionate.models.modes import eval_mode, frozen_modules, plain_module, train_mode
from fractionate.models.outputs import Head, call, check_not_probabilities, logits_of, rows
from fractionate.models.placing import place
from fractionate.tasks.kind import check_not_copied
from fractionate.tasks.model_inputs import ModelInputs
from fractionate.teachers.model import LEAVE_OUT
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.training.identity import check_apart

PLACE = "place"  # the name under which an example's place in the data travels with it


def distillation_loss(
    student_output: Any,
    teacher: Any,
    labels: Tensor,
    objective: Objective | None = None,
    *,
    head: Head = None,
    teacher_head: Head = None,
    predicts_next: bool = False,
) -> Float[Tensor, ""]:
    """The objective's mean over valid examples or tokens, for a training loop of your own.

    Rules that need statistics of all the data (`class-mean`, `ls`, `kd-sim`) need a signal: `signal.take(places)`.

    Args:
        student_output: What the student returned.
        teacher: The teacher's output on the same batch, or a `TeacherSignal` of its rows.
        labels: As the data have them; -100 where they do not count.
        objective: The loss of a row; None: the default.
        head: Where the logits are in the student's output.
        teacher_head: Where they are in the teacher's.
        predicts_next: The logits at a token predict the next one.

    Returns:
        A scalar; gradient reaches the student only.

    Example:
        import torch
        from fractionate.integrations import distillation_loss

        student, teacher = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
        distillation_loss(student, teacher, torch.arange(6) % 4).backward()
    """
    losses = row_losses(
        student_output, teacher, labels, objective, head=head, teacher_head=teacher_head, predicts_next=predicts_next
    )
    return losses.sum() / max(1, len(losses))


def row_losses(
    student_output: Any,
    teacher: Any,
    labels: Tensor,
    objective: Objective | None = None,
    *,
    head: Head = None,
    teacher_head: Head = None,
    predicts_next: bool = False,
) -> Float[Tensor, "rows"]:
    """As `distillation_loss`, one number for each valid example or token."""
    objective = objective or Objective()
    logits, _kept, _ = rows(logits_of(student_output, head), labels, predicts_next=predicts_next)
    if isinstance(teacher, TeacherSignal):
        signal = teacher
    else:
        _refuse_whole(objective)
        outputs, theirs, _ = rows(logits_of(teacher, teacher_head), labels, predicts_next=predicts_next)
        if not len(theirs):  # nothing counts in this batch: 0, with a path for the gradient
            return logits.sum(dim=-1)
        signal = TeacherSignal(outputs.detach(), theirs)
    return objective(logits, signal)


def _refuse_whole(objective: Objective) -> None:
    from fractionate.losses.objective import needs_whole

    if needs_whole(objective):
        raise ConfigError(
            f"the cell {objective.cell} needs statistics of all the data, a batch does not have them",
            expected="a TeacherSignal of all the data, or an instance-level cell such as kd",
            fix="collect the teacher's signal first and pass signal=",
        )


def writes_on(model: nn.Module) -> bool:
    """Whether a model predicts the next token, as its class says: transformers models that generate and have no encoder."""
    config = getattr(model, "config", None)
    return hasattr(model, "can_generate") and bool(model.can_generate()) and not config.is_encoder_decoder  # type: ignore[operator,union-attr]


def _refuse_dropped(args: Any, compute_loss_func: Any) -> None:
    """Raise `ConfigError` for settings of the Trainer that concern its own loss, which the objective replaces."""
    dropped = ["label_smoothing_factor"] * bool(getattr(args, "label_smoothing_factor", 0.0))
    dropped += ["compute_loss_func"] * (compute_loss_func is not None)
    if dropped:
        raise ConfigError(
            f"{' and '.join(dropped)} of the Trainer concern its own loss, which the objective replaces",
            expected="neither, with Distilling",
            got=", ".join(dropped),
            fix="for label smoothing take the cell: Objective('ls(0.1)'); for another loss, train without this mixin",
        )


def _refuse_words(data: Any) -> None:
    """Raise `MismatchError` where a data set of `datasets` has words as labels, which transformers' collators take for numbers."""
    features = getattr(data, "features", None)
    label = label_name(features) if isinstance(features, Mapping) else None
    if features is not None and label is not None and kind_of(features[label]) == "text":
        raise MismatchError(
            f"train_dataset: the label {label!r} is text",
            expected="class numbers",
            fix=f"data.class_encode_column({label!r})",
        )


class Placed(Dataset[dict[str, Any]]):
    """A dataset of mappings that says of each example where it is: `place` next to the other columns."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int) -> dict[str, Any]:
        item = self.dataset[place]
        if not isinstance(item, Mapping):
            raise MismatchError("Trainer's data are mappings", got=type(item).__name__)
        return {**item, PLACE: place}


class Distilling:
    """A mixin for `transformers.Trainer` and what is built on it (TRL): `class KDTrainer(Distilling, Trainer): ...`.

    Losses are normalised by the number of valid items of the whole optimiser step, as Trainer does itself. Give one of teacher and
    signal.

    Args:
        arguments, settings: What the trainer takes.
        teacher: A model run on every batch in evaluation mode and without a graph.
        signal: A `TeacherSignal` or store in the order of the training data.
        objective: The loss; None: the default.
        predicts_next: The logits at a token predict the next one; None: true of a model that generates and has no encoder.

    Raises:
        ConfigError: Not exactly one of teacher and signal, or a signal where the trainer orders the data itself.
        MismatchError: Signal and training data differ in length.

    Example:
        from transformers import Trainer
        from fractionate.integrations import Distilling
        class KDTrainer(Distilling, Trainer):
            pass  # KDTrainer(model=student, teacher=teacher, objective=Objective(temperature=2), ...)
    """

    def __init__(
        self,
        *arguments: Any,
        teacher: nn.Module | None = None,
        signal: Any = None,
        objective: Objective | None = None,
        predicts_next: bool | None = None,
        **settings: Any,
    ) -> None:
        if (teacher is None) == (signal is None):
            raise ConfigError("give a teacher or its signal", expected="one of teacher= and signal=")
        if objective is not None and not isinstance(objective, Objective):
            raise ConfigError("objective= is no Objective", expected="Objective(...)", got=repr(objective)[:80])
        named = inspect.signature(super().__init__).parameters
        settings |= dict(zip(named, arguments, strict=False))  # as transformers takes them, by place too
        self.objective = objective or Objective()
        self.signal = signal.signal() if callable(getattr(signal, "signal", None)) else signal
        if self.signal is None:
            _refuse_whole(self.objective)
        else:
            if hasattr(self, "_prepare_dataset"):
                raise ConfigError(
                    "TRL cuts, packs and shuffles the data itself: a stored signal cannot follow",
                    fix="pass teacher=, or train with fractionate.distill, which reads stored signals of tokens",
                )
            data: Any = settings.get("train_dataset")
            if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
                raise ConfigError(
                    "a stored signal follows a train_dataset that is read by place",
                    expected="train_dataset= with a length",
                    got="none" if data is None else type(data).__name__,
                    fix="pass a map-style data set, or teacher= in place of signal=",
                )
            if len(data) != len(self.signal):
                raise MismatchError(
                    "teacher signal and training data differ in length",
                    expected=f"{len(data)} rows",
                    got=f"{len(self.signal)}",
                )
            if settings.get("args") is None:
                raise ConfigError(
                    "a stored signal needs the settings of the Trainer", expected="args=TrainingArguments(...)"
                )
            settings["train_dataset"] = Placed(data)
            settings["args"].remove_unused_columns = False
        _refuse_words(settings.get("train_dataset"))
        super().__init__(**settings)
        self.frozen = frozen_modules(self.model)  # type: ignore[attr-defined]
        self.teacher, self.checked = teacher, False
        if teacher is not None:
            check_apart(self.model, teacher)  # type: ignore[attr-defined]
        self.teacher_device = None if teacher is None else place(teacher, self.args.device)  # type: ignore[attr-defined]
        self.model_accepts_loss_kwargs = True  # our loss is normalised by the items of the whole step
        _refuse_dropped(self.args, getattr(self, "compute_loss_func", None))  # type: ignore[attr-defined]
        model = plain_module(self.model)  # type: ignore[attr-defined]
        self.predicts_next = writes_on(model) if predicts_next is None else predicts_next
        self._loss_shifts_labels = self.predicts_next  # by this Trainer counts the items

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective in place of the model's own loss; the model's own where it is only evaluated."""
        places = inputs.pop(PLACE, None)
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        batch = as_batch(inputs, torch.arange(0), "Trainer's batch")
        if not self.checked and not self.predicts_next:
            check_not_copied(plain_module(model), batch, "aligned")
        given, labels = batch.inputs, batch.labels
        train_mode(model, self.frozen)  # Trainer has put all of it into training mode
        outputs = model(**self._uncached(model, ModelInputs.of(plain_module(model))(batch)))
        if self.signal is not None:
            teacher = self.signal.take(places.to(self.signal.labels.device)).to(labels.device)
            check_same_labels(teacher.labels, labels)
        else:
            assert self.teacher is not None and self.teacher_device is not None
            theirs = ModelInputs.of(self.teacher)(batch.to(self.teacher_device))
            with eval_mode(self.teacher):
                teacher = logits_of(call(self.teacher, self._uncached(self.teacher, theirs))).to(labels.device)
            if not self.checked:
                check_not_probabilities(teacher, LEAVE_OUT)
        self.checked = True
        losses = row_losses(outputs, teacher, labels, self.objective, predicts_next=self.predicts_next)
        loss = losses.sum() / self._share(len(losses), num_items_in_batch)
        if hasattr(self, "_total_train_tokens"):
            self._note(outputs, labels, given)
        return (loss, outputs) if return_outputs else loss

    def _uncached(self, model: nn.Module, given: dict[str, Any]) -> dict[str, Any]:
        """Causal models without a key-value cache: with one, transformers lets packed documents see each other."""
        config = getattr(getattr(model, "module", model), "config", None)
        return {**given, "use_cache": False} if self.predicts_next and hasattr(config, "use_cache") else given

    def _share(self, rows_here: int, num_items_in_batch: Any) -> Any:
        """What a process divides its sum by: the step's items where Trainer counts them, over all processes whose mean is taken."""
        if num_items_in_batch is None:
            return max(1, rows_here)
        items = torch.as_tensor(num_items_in_batch).clamp(min=1)
        if getattr(self.args, "average_tokens_across_devices", False):  # type: ignore[attr-defined]
            return items / (self.accelerator.num_processes // self.get_tp_size())  # type: ignore[attr-defined]
        return items

    def _note(self, outputs: Any, labels: Tensor, given: dict[str, Any]) -> None:
        """TRL's columns: tokens seen, share of them predicted. Not its entropy: one more pass over the vocabulary."""
        guessed, wanted = logits_of(outputs).argmax(dim=-1)[..., :-1], labels[..., 1:]
        counted = wanted != IGNORED
        seen = given["attention_mask"].sum() if "attention_mask" in given else labels.new_tensor(labels.numel())
        right, valid, tokens = (
            int(self.accelerator.gather_for_metrics(one).sum())  # type: ignore[attr-defined]
            for one in (((guessed == wanted) & counted).sum(), counted.sum(), seen)
        )
        self._total_train_tokens += tokens  # type: ignore[attr-defined]
        self._metrics["train"]["mean_token_accuracy"].append(right / max(1, valid))  # type: ignore[attr-defined]
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]  # type: ignore[attr-defined]


def lightning_distillation(
    teacher: nn.Module, objective: Objective | None = None, *, student: str = "", head: Head = None, **more: Any
) -> Any:
    """A Lightning callback: the objective takes the place of what `training_step` returns; everything else is the module's own.

    Batches are (inputs, labels) or mappings with labels.

    Args:
        teacher: A model run on every batch in evaluation mode.
        objective: The loss; None: the default.
        student: Path of the submodule whose output are the logits; "" for the module itself: its `forward`.
        head: Where the logits are in its output.
        more: Further arguments of `distillation_loss`.

    Returns:
        The callback, for `Trainer(callbacks=[...])`.

    Raises:
        MissingExtraError: without Lightning.

    Example:
        from torch import nn
        from fractionate.integrations import lightning_distillation

        callback = lightning_distillation(nn.Linear(8, 4))
    """
    with extra("lightning", "Lightning is not installed"):
        import lightning.pytorch as lightning
    objective = objective or Objective()
    _refuse_whole(objective)

    teacher_head: Head = more.pop("teacher_head", None)

    class Distillation(lightning.Callback):
        """Watches the student's output in each training step and returns the objective's loss for it."""

        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            if stage != "fit":
                return
            self.outputs: list[Any] = []
            watched = pl_module.get_submodule(student)
            check_apart(watched, teacher)
            self.hook = watched.register_forward_hook(lambda _module, _inputs, output: self.outputs.append(output))
            own_step = pl_module.training_step

            def training_step(batch: Any, *places: Any) -> Any:
                self.outputs.clear()
                own = own_step(batch, *places)
                if not self.outputs:
                    raise MismatchError(
                        "the student was not called in training_step", fix="pass student=, the name of the submodule"
                    )
                read = as_batch(batch, torch.arange(0), "Lightning's batch")
                if not more.get("predicts_next"):
                    check_not_copied(watched, read, "aligned")
                there = place(teacher, pl_module.device)
                with eval_mode(teacher):
                    outputs = logits_of(call(teacher, ModelInputs.of(teacher)(read.to(there))), teacher_head)
                check_not_probabilities(outputs.reshape(-1, outputs.shape[-1]), LEAVE_OUT)
                loss = distillation_loss(
                    self.outputs[-1], outputs.to(read.labels.device), read.labels, objective, head=head, **more
                )
                return {**own, "loss": loss} if isinstance(own, Mapping) else loss

            pl_module.training_step = training_step
            self.own_step = own_step

        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            if stage == "fit":
                self.hook.remove()
                del pl_module.training_step

    return Distillation()
