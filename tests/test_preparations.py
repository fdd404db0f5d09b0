"""Preparations: each on a small real model through distill; equal to the direct calls, resumed, distinguished by name."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bench.kill import forked
from safetensors.torch import load_file
from torch import nn

from encoders import encoder, inputs_of, transformers
from fractionate import Objective
from fractionate.data.examples import Examples
from fractionate.data.sampling import batches
from fractionate.errors import ConfigError, MismatchError, UnknownNameError
from fractionate.models.additive import EXPLANATIONS, explaining_mlp
from fractionate.models.columns import given
from fractionate.models.export import export_student
from fractionate.models.from_teacher import FromTeacher, stacks
from fractionate.models.lora import adapters
from fractionate.models.outputs import call
from fractionate.models.preparations import Preparing
from fractionate.models.quantize import Activations, Quantization, calibrate, prepare, quantizers
from fractionate.records import Training
from fractionate.tasks import Task
from fractionate.training import distill
from fractionate.training.recipe import Recipe

transformers()
KD = Objective("kd", 1.0, 1.0)
FAST = Training(steps=4, batch_size=8, learning_rate=1e-2)


def texts(count: int = 40) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    return inputs_of(batch=count), torch.arange(count) % 3


def task(**settings) -> Task:
    return Task("classification", **({"transfer": texts(), "test": texts(12)} | settings))


def at(teacher: nn.Module | None = None) -> Preparing:
    return Preparing(teacher=teacher, seed=0, inputs=inputs_of(), calibration=lambda count: iter([inputs_of()] * count))


def states(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def killed(run, folder: Path) -> None:
    """Run in a process of its own that kills itself where the third step would be taken."""
    child = forked(run)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (folder / "run.json").exists() and list((folder / "checkpoints").iterdir())


class Dies:
    """An observer that kills the process at a step."""

    steps, fitted = frozenset({3}), False

    def stepped(self):
        pass

    def measure(self, step, loss, student):
        os.kill(os.getpid(), signal.SIGKILL)


# -- recipes ------------------------------------------------------------------------------------------------------------------


def test_a_recipe_takes_names() -> None:
    recipe = Recipe(preparations=("from_teacher(layers='every 2')", "quantize(2, 8, keep=['bert.encoder.layer.0'])"))
    made, quantized = recipe.preparations
    assert made == FromTeacher("every 2") and quantized == Quantization(2, 8, keep=("bert.encoder.layer.0",))
    assert recipe == Recipe(preparations=recipe.preparations) and recipe.needs_teacher and not recipe.opens_teacher
    assert hash(recipe.preparations) == hash((made, quantized))
    with pytest.raises(UnknownNameError, match="did you mean 'quantize'"):
        Recipe(preparations=("quantise(2)",))
    with pytest.raises(ConfigError, match="a tuple of specs"):
        Recipe(preparations="quantize(2)")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="invalid value for weights of quantize"):
        Recipe(preparations=("quantize(3)",))


def test_a_student_without_anything_to_make_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="quantize has no student"):
        distill(task(), recipe=Recipe(preparations=("quantize()",), training=FAST))
    with pytest.raises(ConfigError, match="needs a teacher"):
        distill(task(), recipe=Recipe(preparations=("from_teacher()",), training=FAST))
    teacher = encoder()
    with pytest.raises(ConfigError, match="a wrapped student cannot be prepared"):
        distill(
            nn.DataParallel(encoder()), texts(), teacher, recipe=Recipe(preparations=("quantize()",), training=FAST)
        )


# -- from_teacher -------------------------------------------------------------------------------------------------------------


def test_every_second_layer_of_the_teacher(tmp_path) -> None:
    teacher = encoder(num_hidden_layers=4).eval().requires_grad_(False)
    before = states(teacher)
    student = FromTeacher("every 2")(None, at(teacher))
    ours, theirs = student.state_dict(), teacher.state_dict()
    assert student.config.num_hidden_layers == 2 and teacher.config.num_hidden_layers == 4
    for name, tensor in ours.items():
        theirs_name = name.replace("layer.1.", "layer.2.")
        assert torch.equal(tensor, theirs[theirs_name]), name
        assert tensor.data_ptr() != theirs[theirs_name].data_ptr()
    assert student.training and all(p.requires_grad for p in student.parameters())
    student, run = distill(
        task(), teacher=teacher, recipe=Recipe(preparations=("from_teacher('every 2')",), objective=KD, training=FAST),
        out=tmp_path / "run",
    )  # fmt: skip
    assert equal(before, states(teacher)) and "from_teacher" in run.settings["recipe.preparations"]
    assert "FromTeacher(layers='every 2'" in str(run.contract)
    student.save_pretrained(tmp_path / "student")
    back = type(teacher).from_pretrained(tmp_path / "student")
    assert equal(states(back), states(student))


@pytest.mark.parametrize("kind", ["roberta", "vit"])
def test_numbered_layers_and_whole_copies(kind: str) -> None:
    teacher = encoder(kind, num_hidden_layers=3).eval()
    inputs = inputs_of(kind)
    whole = FromTeacher()(None, at(teacher)).eval()
    assert torch.equal(call(whole, inputs).logits, call(teacher, inputs).logits)
    same = FromTeacher((0, 1, 2))
    with pytest.raises(MismatchError, match="leaves no layer"):
        same(None, at(teacher))
    some = FromTeacher((0, 2))(None, at(teacher))
    assert some.config.num_hidden_layers == 2 and list(stacks(some).values()) == [2]


def test_models_that_generate_are_cut_on_both_sides_and_still_write() -> None:
    library = transformers()
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "d_model": 16, "encoder_layers": 4, "decoder_layers": 2, "pad_token_id": 0}
    sizes |= {
        f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("attention_heads", 2), ("ffn_dim", 16))
    }
    marian = library.MarianMTModel(library.MarianConfig(**sizes, decoder_start_token_id=0, max_position_embeddings=32))
    student = FromTeacher("every 2")(None, at(marian))
    assert (student.config.encoder_layers, student.config.decoder_layers) == (2, 1)
    only = FromTeacher("every 2", stack="model.decoder.layers")(None, at(marian))
    assert (only.config.encoder_layers, only.config.decoder_layers) == (4, 1)
    llama = library.LlamaForCausalLM(
        library.LlamaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16,
                            num_key_value_heads=2, tie_word_embeddings=True)
    )  # fmt: skip
    tied = FromTeacher("every 3")(None, at(llama)).eval()
    assert tied.get_input_embeddings().weight.data_ptr() == tied.get_output_embeddings().weight.data_ptr()
    ids = torch.tensor([[3, 4, 5]])
    written = tied.generate(ids, max_new_tokens=3, do_sample=False, use_cache=True)
    assert torch.equal(written, tied.generate(ids, max_new_tokens=3, do_sample=False, use_cache=False))


def test_models_of_ones_own_are_cut_too_and_others_refused() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            for block in self.blocks:
                x = torch.relu(block(x))
            return self.head(x)

    own = Own()
    student = FromTeacher("every 2")(None, at(own))
    assert [torch.equal(b.weight, own.blocks[2 * i].weight) for i, b in enumerate(student.blocks)] == [True] * 3
    assert student(torch.randn(3, 4)).shape == (3, 2) and len(own.blocks) == 5
    with pytest.raises(MismatchError, match="has no stack"):
        FromTeacher("every 2")(None, at(nn.Linear(2, 2)))
    with pytest.raises(MismatchError, match="has no layer 9"):
        FromTeacher((0, 9))(None, at(own))
    for layers in ("every 0", "every other", (2, 1), (), (True, 2), 3):
        with pytest.raises(ConfigError, match="invalid value for layers"):
            FromTeacher(layers)  # type: ignore[arg-type]
    library = transformers()
    albert = library.AlbertForSequenceClassification(
        library.AlbertConfig(vocab_size=40, embedding_size=8, hidden_size=16, num_hidden_layers=4, num_attention_heads=2,
                             intermediate_size=16)
    )  # fmt: skip
    with pytest.raises(MismatchError, match="leaves no layer"):  # its layers share their weights
        FromTeacher("every 2")(None, at(albert))


def test_a_cached_signal_makes_no_student(tmp_path) -> None:
    from fractionate.training.evaluation import signal_on

    with pytest.raises(ConfigError, match="needs the teacher's model"):
        distill(
            task(), teacher=signal_on(encoder(), texts()),
            recipe=Recipe(preparations=("from_teacher()",), objective=KD, training=FAST),
        )  # fmt: skip


# -- quantize -----------------------------------------------------------------------------------------------------------------


def test_quantize_is_prepare_and_calibrate(tmp_path) -> None:
    teacher = encoder().eval()
    recipe = Recipe(
        preparations=("from_teacher()", "quantize(2, 8, activation_clip=10.0, calibration=8)"),
        objective=KD,
        training=FAST,
    )
    found, _ = distill(task(), teacher=teacher, recipe=recipe, out=tmp_path / "run", seed=3)
    direct = prepare(teacher, Quantization(2, 8, activation_clip=10.0), example=inputs_of(batch=2, tokens=7))
    inputs, _ = texts()
    plan = [*batches(40, 8, 3, 0), *batches(40, 8, 3, 1)][:8]  # as the loop draws them: 5 an epoch
    peaks = calibrate(direct, [{name: part[index] for name, part in inputs.items()} for index in plan])
    assert {n: q.peak for n, q in quantizers(found).items() if isinstance(q, Activations)} == peaks
    again, _ = distill(task(), teacher=teacher, recipe=recipe, out=tmp_path / "run", seed=3)
    assert {n: q.peak for n, q in quantizers(again).items() if isinstance(q, Activations)} == peaks


def test_quantize_trains_as_the_direct_call_does() -> None:
    teacher = encoder().eval()
    recipe = Recipe(
        preparations=("from_teacher()", "quantize('ternary', activation_clip=10.0)"), objective=KD, training=FAST
    )
    found, _ = distill(task(), teacher=teacher, recipe=recipe, seed=3)
    example = {name: part[:2] for name, part in texts()[0].items()}
    direct = prepare(encoder().train(), Quantization("ternary", activation_clip=10.0), example=example)
    direct, _ = distill(direct, texts(), teacher, objective=KD, training=FAST, seed=3)
    assert equal(states(found), states(direct))


def test_another_preparation_in_the_same_folder_is_refused_by_name_and_a_killed_run_is_resumed(tmp_path) -> None:
    teacher = encoder().eval()
    recipe = Recipe(preparations=("from_teacher()", "quantize(4, None, None)"), objective=KD, training=FAST)
    settings = {"teacher": teacher, "recipe": recipe, "save_every_steps": 1}
    whole, _ = distill(task(), **settings)
    out = tmp_path / "cut"
    killed(lambda: distill(task(), **settings, out=out, observer=Dies()), out)
    resumed, _ = distill(task(), **settings, out=out)
    assert equal(states(whole), states(resumed))
    again, _ = distill(task(), **settings, out=out)
    assert equal(states(whole), states(again))
    other = dataclasses.replace(recipe, preparations=("from_teacher()", "quantize(4, None, None, clip=2.0)"))
    with pytest.raises(MismatchError, match=r"recipe\.preparations"):
        distill(task(), **(settings | {"recipe": other}), out=out)


# -- explaining ---------------------------------------------------------------------------------------------------------------


def columns() -> Examples:
    generator = torch.Generator().manual_seed(0)
    return Examples(torch.randn(60, 6, generator=generator), torch.arange(60) % 3)


def test_explaining_is_the_direct_call_at_the_size_of_the_student(tmp_path) -> None:
    groups = ((0, 1, 2), (3, 4), (5,))
    plain = lambda: nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))  # noqa: E731
    whole = Task("classification", transfer=columns(), student=plain)
    recipe = Recipe(preparations=(f"explaining({groups})",), training=FAST)
    found, _ = distill(whole, recipe=recipe, out=tmp_path / "run", seed=5)
    direct = explaining_mlp(given(groups), 3, parameters=sum(p.numel() for p in plain().parameters()))
    assert [p.shape for p in found.parameters()] == [p.shape for p in direct.parameters()]
    sized = Recipe(preparations=(f"explaining({groups}, width=4, classes=3, prior=(0.2, 0.3, 0.5))",), training=FAST)
    found, _ = distill(Task("classification", transfer=columns()), recipe=sized, seed=5)
    torch.manual_seed(5)
    direct = explaining_mlp(given(groups), 3, width=4, prior=torch.tensor([0.2, 0.3, 0.5]))
    direct, _ = distill(direct, columns(), training=FAST, seed=5)
    assert equal(states(found), states(direct))
    assert set(found(columns().inputs)) == {"logits", EXPLANATIONS}
    with pytest.raises(ConfigError, match="in two groups"):
        Recipe(preparations=("explaining(((0, 1), (1, 2)))",))
    with pytest.raises(ConfigError, match="cannot be combined"):
        Recipe(preparations=("explaining(((0, 1), (2,)), width=2, parameters=80)",))
    with pytest.raises(ConfigError, match="no student to prepare"):
        distill(Task("classification", transfer=columns()), recipe=recipe)


# -- lora ---------------------------------------------------------------------------------------------------------------------


def adapted(**settings) -> Recipe:
    settings = {
        "preparations": ("lora(4, targets=('query', 'value'), trained=('classifier',))",),
        "objective": KD,
    } | settings
    return Recipe(**settings, training=Training(steps=12, batch_size=8, learning_rate=5e-2))


def test_adapters_alone_are_trained_and_merged_at_the_end(tmp_path) -> None:
    teacher, plain = encoder(seed=1).eval(), encoder()
    task_ = task(student=encoder)
    student, run = distill(task_, teacher=teacher, recipe=adapted(), out=tmp_path / "run")
    before, after = states(plain), states(student)
    assert type(student) is type(plain) and before.keys() == after.keys() and not adapters(student)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(".query." in name or ".value." in name or "classifier" in name for name in moved)
    for name in moved:
        if "classifier" not in name:
            assert torch.linalg.matrix_rank(after[name] - before[name], tol=1e-4) <= 4
    assert any("query" in name for name in moved) and any("classifier" in name for name in moved)
    assert run.parameters == sum(p.numel() for p in plain.parameters())
    # the file loads by itself, and says what was measured
    found = load_file(tmp_path / "run" / "student.safetensors")
    plain.load_state_dict(found)
    inputs = inputs_of()
    assert torch.equal(plain.eval()(**inputs).logits, student.eval()(**inputs).logits)
    assert task_.evaluate(plain, task_.splits.test).values == run.test.values
    again, same = distill(task_, teacher=teacher, recipe=adapted(), out=tmp_path / "run")
    assert equal(states(again), after) and same.test == run.test


def test_a_killed_run_with_adapters_is_resumed(tmp_path) -> None:
    teacher, out = encoder(seed=1).eval(), tmp_path / "cut"
    settings = {"teacher": teacher, "recipe": adapted(), "save_every_steps": 1}
    whole, _ = distill(task(student=encoder), **settings)
    killed(lambda: distill(task(student=encoder), **settings, out=out, observer=Dies()), out)
    resumed, _ = distill(task(student=encoder), **settings, out=out)
    assert equal(states(whole), states(resumed))
    other = adapted(preparations=("lora(2, targets=('query', 'value'), trained=('classifier',))",))
    with pytest.raises(MismatchError, match=r"recipe\.preparations"):
        distill(task(student=encoder), **(settings | {"recipe": other}), out=out)


def test_adapters_on_a_copy_of_the_teacher_leave_the_teacher_alone() -> None:
    teacher = encoder(seed=1).eval()
    before = states(teacher)
    recipe = Recipe(preparations=("from_teacher()", "lora(2, targets='query')"), training=FAST)  # trained on the labels
    student, _ = distill(task(), teacher=teacher, recipe=recipe)
    assert equal(before, states(teacher)) and not adapters(teacher) and not equal(before, states(student))


def test_a_model_that_writes_and_shares_its_embedding_is_adapted() -> None:
    library = transformers()
    torch.manual_seed(0)
    config = library.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=16)
    model = library.GPT2LMHeadModel(config)
    ids = torch.randint(1, 40, (16, 8))
    data = Task(
        "language-modelling", transfer=({"input_ids": ids}, ids), student=lambda: library.GPT2LMHeadModel(config)
    )
    student, run = distill(data, teacher=model, recipe=Recipe(preparations=("lora(2)",), objective=KD, training=FAST))
    assert student.get_input_embeddings().weight is student.get_output_embeddings().weight
    assert run.steps == FAST.steps and not adapters(student)
    assert student.generate(ids[:1, :3], max_new_tokens=2, do_sample=False, pad_token_id=0).shape == (1, 5)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, about what peft reads of it
def test_adapters_are_merged_in_an_export(tmp_path) -> None:
    import peft

    for wrapped in (True, False):
        student = encoder().eval()
        settings = peft.LoraConfig(target_modules=["query"], r=2, init_lora_weights=False)
        adapted = peft.get_peft_model(student, settings) if wrapped else peft.inject_adapter_in_model(settings, student)
        expected = adapted(**inputs_of()).logits
        out = export_student(adapted, tmp_path / str(wrapped), program=False)
        back = type(encoder()).from_pretrained(out).eval()
        torch.testing.assert_close(back(**inputs_of()).logits, expected)
        assert not {"adapter_config.json", "adapter_model.safetensors"} & {path.name for path in out.iterdir()}
        assert adapters(adapted), "the student itself is as it was"


def test_what_lora_cannot_do_is_refused() -> None:
    for wrong in ("lora(0)", "lora(True)", "lora(2, 0.0)", "lora(2, dropout=1.0)"):
        with pytest.raises(ConfigError):
            Recipe(preparations=(wrong,))
    teacher = encoder(seed=1)
    for preparation, message in (
        ("lora(2, targets='nothing')", "finds no layers"),
        ("lora(2, targets='query', trained='head')", "has no module 'head'"),
    ):
        with pytest.raises(MismatchError, match=message):
            distill(task(student=encoder), teacher=teacher, recipe=adapted(preparations=(preparation,)))
    with pytest.raises(MismatchError, match="finds no layers"):
        distill(task(student=lambda: nn.Linear(2, 2)), recipe=adapted(preparations=("lora(2)",), objective=None))
    with pytest.raises(MismatchError, match="has adapters already"):
        distill(task(student=encoder), teacher=teacher, recipe=adapted(preparations=("lora(2, targets='query')",) * 2))


def test_without_peft_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['peft'] = None\n"
        "from fractionate.errors import MissingExtraError\n"
        "from fractionate.models.lora import LoRA, merged\n"
        "from torch import nn\n"
        "assert isinstance(merged(nn.Linear(2, 2)), nn.Linear)\n"
        "try: LoRA(2)(nn.Linear(2, 2), None)\n"
        "except MissingExtraError as error: print(error)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "fractionate[lora]" in found.stdout
