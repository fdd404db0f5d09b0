"""Models of Hugging Face's transformers by folder, name or architecture: `hf('models/teacher')`, `hf('bert', layers=2)`.

Weights are read from files of this machine first. Code that comes with a checkpoint is never run.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import nn

from fractionate.data.raw import PLACE, Tokenizing
from fractionate.errors import ConfigError, MismatchError, printable, reason
from fractionate.models.hub_config import config_for, positions_of, resized, with_tokens_of
from fractionate.models.hub_place import Place, find_place, library
from fractionate.models.names import ModelNeed
from fractionate.models.sentence_encoder import SentenceEncoder
from fractionate.models.tokenizer import prepared
from fractionate.models.zoo import models

HEADS = {  # the class with the right head, by kind of task
    "classification": "AutoModelForSequenceClassification",
    "multi-label": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "language-modelling": "AutoModelForCausalLM",
    "translation": "AutoModelForSeq2SeqLM",
    "embeddings": "AutoModel",
    "reranking": "AutoModel",
}
CLASSES = (
    "classification",
    "multi-label",
    "regression",
    "token-classification",
)  # kinds whose head has an output a class
PROBLEMS = {
    "classification": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
}
GENERIC = re.compile(r"(LABEL_)?\d+", re.IGNORECASE)
Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class HubModel:
    """A maker of models of transformers: what `hf` gives. See `hf` for the settings."""

    name: str
    layers: int | tuple[int, ...] | None = None
    width: int | None = None
    heads: int | None = None
    vocabulary: int | None = None
    fresh: bool = False
    tokenizer: str | None = None
    classes: tuple[str, ...] = ()
    dtype: Dtype = "float32"
    prompt: str = ""
    device_map: str | Mapping[str, Any] | None = None

    @cached_property
    def place(self) -> Place | None:
        """Where its config and weights are; None for an architecture by name."""
        return find_place(self.name)

    @cached_property
    def trained(self) -> bool:
        """Whether it comes with weights, and is not trained unless that is wanted."""
        return not self.fresh and self.place is not None

    @property
    def packed(self) -> bool:
        """Whether its weights take seconds to unpack: those of a GGUF file."""
        return self.trained and self.place is not None and self.place.gguf is not None

    @cached_property
    def _reader(self) -> Any:
        """Its tokenizer; None for an architecture without one."""
        place = self.place if self.tokenizer is None else find_place(self.tokenizer)
        if place is None:
            if self.tokenizer is not None:
                raise ConfigError(
                    f"there is no tokenizer {self.tokenizer!r}", expected="a folder, or a name of the hub"
                )
            return None
        return prepared(place.tokenizer(), place.source)

    @cached_property
    def config(self) -> Any:
        """Its config, with the sizes that were set."""
        if self.place is None:
            with library() as found:
                config = config_for(found.AutoConfig, self.name)
        else:
            config = self.place.config()
        if self._reader is not None and (self.place is None or self.tokenizer is not None):
            config = with_tokens_of(config, self._reader)
        return resized(config, layers=self.layers, width=self.width, heads=self.heads, vocabulary=self.vocabulary)

    def tokenizing(self, length: int) -> Tokenizing | None:
        """How texts of at most so many tokens become its inputs; None where it has no tokenizer.

        Raises `MismatchError` for more tokens than it has positions.
        """
        if self._reader is None:
            return None
        most, ours = positions_of(self.config), len(self._reader(self.prompt)["input_ids"]) if self.prompt else 0
        if most is not None and length + ours > most:
            raise MismatchError(
                f"{self.name} reads at most {most:,} tokens",
                expected=f"length: {max(1, most - ours)}",
                got=f"length: {length}" + f" and a prompt of {ours} tokens" * bool(ours),
            )
        start = getattr(self.config, "decoder_start_token_id", None) if self.config.is_encoder_decoder else None
        return Tokenizing(self._reader, length, start, self._reader.pad_token_id, self.prompt)

    def build(self, need: ModelNeed) -> nn.Module:
        """A model with the head of a kind of task. `need.frozen`: its weights have to hold the head already.

        Raises `ConfigError` for kinds without a head in transformers, `MismatchError` where the checkpoint does not fit the task.
        """
        head = _head(need)
        config = self.config
        if self.place is None:
            if self._reader is None and need.tokenizing is not None:
                config = with_tokens_of(config, need.tokenizing.tokenizer)
                config = resized(config, vocabulary=self.vocabulary)
            elif self._reader is None and self.vocabulary is None and hasattr(config, "vocab_size"):
                raise ConfigError(
                    f"hf({self.name!r}) is an architecture without a tokenizer",
                    expected="the folder or name of a model whose tokenizer it shares",
                    fix=f"hf({self.name!r}, …, tokenizer='models/teacher')",
                )
        with library() as found:
            auto = getattr(found, head)
            loaded = self.trained and not need.drawn
            model: Any = self._loaded(auto, need) if loaded else self._fresh(auto, config, need)
        if need.kind in CLASSES and getattr(model.config, "pad_token_id", None) is None and self._reader is not None:
            model.config.pad_token_id = self._reader.pad_token_id  # by which a decoder finds the last token of a text
        built: nn.Module = SentenceEncoder(model) if head == "AutoModel" else model
        return built

    def _fresh(self, auto: Any, config: Any, need: ModelNeed) -> Any:
        config = copy.deepcopy(config)
        config.dtype = torch.float32  # a checkpoint's own may be a half precision, in which small steps are lost
        _name_classes(config, need)
        if len(need.shape) == 3:
            config.num_channels = need.shape[0]
            config.image_size = need.shape[1]
        try:
            model = auto.from_config(config, trust_remote_code=False)
        except (ValueError, RuntimeError, TypeError, ZeroDivisionError, AssertionError) as error:
            raise ConfigError(
                f"{self.name} cannot be built for {need.kind}",
                expected=f"an architecture with a head for it ({auto.__name__})",
                got=reason(error),
            ) from error
        return model

    def _loaded(self, auto: Any, need: ModelNeed) -> Any:
        assert self.place is not None
        settings: dict[str, Any] = {"dtype": getattr(torch, self.dtype), "output_loading_info": True}
        if self.device_map is not None:
            settings["device_map"] = self.device_map
        theirs = self._their_classes() if need.kind in CLASSES and need.classes else ()
        if not need.frozen and len(theirs) != need.classes and theirs:
            settings |= {"num_labels": need.classes, "ignore_mismatched_sizes": True}
        elif self.place.gguf is not None:  # transformers reads the whole file again for its config
            settings["config"] = copy.deepcopy(self.place.config())
        model, message = self.place.read(auto, **settings)
        new = sorted({*message["missing_keys"], *(key[0] for key in message["mismatched_keys"])})
        if need.kind == "embeddings":
            new = [name for name in new if not name.startswith("pooler.")]  # the mean over tokens needs none
        if need.frozen and new:
            raise MismatchError(
                f"{self.name} has no head for {need.kind}: it would answer at random",
                expected=f"a checkpoint with the weights of {type(model).__name__}",
                got=f"no weights for {', '.join(new[:4])}{', …' if len(new) > 4 else ''}",
                fix="train it here, teacher: {train: {steps: 1000}}; or give a checkpoint that was trained for this task",
            )
        order = self._order(theirs, need) if theirs else None
        if order is not None and order != list(range(len(order))):
            _reorder(model, order, self.name)
        if need.kind in CLASSES:
            _name_classes(model.config, need)
        return model

    def _their_classes(self) -> tuple[str, ...]:
        named = self.config.id2label or {}
        return self.classes or tuple(str(named[place]) for place in sorted(named))

    def _order(self, theirs: Sequence[str], need: ModelNeed) -> list[int] | None:
        """The place of each class of the data among the checkpoint's outputs; None where the outputs are of other classes."""
        ours = need.class_names
        if len(theirs) == (need.classes or len(ours)):
            places = {_plain(name): place for place, name in enumerate(theirs)}
            wanted = [_plain(name) for name in ours]
            if len(places) == len(theirs) and set(wanted) == set(places):
                return [places[name] for name in wanted]
            generic = [all(GENERIC.fullmatch(name) for name in names) for names in (theirs, ours)]
            if any(generic):
                return list(range(len(theirs)))
        if need.frozen:
            raise MismatchError(
                f"{self.name} has other classes than the data",
                expected=f"{need.classes}: {', '.join(ours[:20]) or 'not named'}",
                got=f"{len(theirs)}: {', '.join(theirs[:20])}",
                fix="name the model's outputs in the data's words, in their order: hf(…, classes=['…', '…'])",
            )
        return None

    def __call__(self, shape: Sequence[int], classes: int) -> nn.Module:
        return self.build(ModelNeed(shape=tuple(shape) if len(shape) == 3 else (), classes=classes))


@models.register("hf")
def hf(
    name: str,
    *,
    layers: int | Sequence[int] | None = None,
    width: int | None = None,
    heads: int | None = None,
    vocabulary: int | None = None,
    fresh: bool = False,
    tokenizer: str | None = None,
    classes: Sequence[str] = (),
    dtype: Dtype = "float32",
    prompt: str = "",
    device_map: str | Mapping[str, Any] | None = None,
) -> HubModel:
    """A model of transformers with the head of the task: a folder or hub name, `hf('models/teacher')`; or `hf('bert', layers=2)`.

    Args:
        name: A folder with config.json, a .gguf file, `package:NAME` for a model that an installed Python package brings, a name
            of the hub with an owner (`owner/model`), or an architecture of transformers (`bert`, `llama`, `t5`).
        layers, width, heads, vocabulary: Other sizes; any of them gives a fresh model. Of an encoder-decoder `layers` may be
            (encoder, decoder).
        fresh: New weights for the checkpoint's config.
        tokenizer: Folder or hub name of another tokenizer; a fresh model takes its vocabulary.
        classes: The classes of the checkpoint's outputs in their order, in the data's words; none: as its config names them.
        dtype: Of the weights read.
        prompt: What it reads in the place of a text, `'query: {text}'`, for tasks with one row per text; beyond data.length.
        device_map: "auto" spreads weights that are larger than a GPU over all, as they are read; or a device by path of module.

    Returns:
        A `HubModel`: the model is read or made when a task needs it.

    Raises:
        ConfigError: for a name that leads to no model, and for checkpoints that bring code of their own.
        MissingExtraError: without transformers.

    Example:
        from fractionate.models import hf

        model = hf("bert", layers=2, width=64, heads=2, vocabulary=1000)
    """
    if isinstance(classes, str) or not all(isinstance(one, str) for one in classes):
        raise ConfigError("invalid value for classes", expected="a list of names", got=repr(classes))
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError("invalid value for dtype", expected="float32, bfloat16 or float16", got=repr(dtype))
    if not isinstance(name, str) or not name:
        raise ConfigError("invalid name of a model", expected="a folder or a name of the hub", got=repr(name))
    fresh = bool(fresh) or any(size is not None for size in (layers, width, heads, vocabulary))
    kept = layers if layers is None or isinstance(layers, int) else tuple(layers)
    made = HubModel(name, kept, width, heads, vocabulary, fresh, tokenizer, tuple(classes), dtype, prompt, device_map)
    if device_map is not None and fresh:
        raise ConfigError("device_map is for weights that are read", fix="leave it out: a fresh model is on one device")
    if prompt and (not isinstance(prompt, str) or prompt.count(PLACE) != 1):
        raise ConfigError("the prompt has no place for the text", expected=f"one {PLACE} in it", got=repr(prompt))
    if made.place is not None and tokenizer is not None and not fresh:
        raise ConfigError(
            f"the weights of {printable(name)} belong to its own tokenizer",
            fix="leave tokenizer= out, or take its config alone: fresh=True",
        )
    return made


def _head(need: ModelNeed) -> str:
    if need.kind not in HEADS:
        raise ConfigError(
            f"transformers has no head for the task {need.kind!r}",
            expected=", ".join(HEADS),
            fix="make the model in a function of your own: model: my_module:build",
        )
    pictures = len(need.shape) == 3 and need.kind in PROBLEMS
    return "AutoModelForImageClassification" if pictures else HEADS[need.kind]


def _name_classes(config: Any, need: ModelNeed) -> None:
    """Let a config name the data's classes."""
    if need.kind not in CLASSES or not need.classes:
        return
    names: Mapping[int, str] = dict(enumerate(need.class_names or [f"LABEL_{n}" for n in range(need.classes)]))
    config.num_labels = need.classes
    config.id2label = names
    config.label2id = {name: number for number, name in names.items()}
    config.problem_type = PROBLEMS.get(need.kind)


def _plain(name: str) -> str:
    return name.strip().casefold()


def _reorder(model: Any, order: Sequence[int], name: str) -> None:
    """Let a classifier's outputs follow the order of the data's classes."""
    body = f"{model.base_model_prefix}."
    heads = [
        module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == len(order) and not path.startswith(body)
    ]
    if len(heads) != 1:
        raise MismatchError(
            f"the classes of {name} are in another order than the data's, and its output layer was not found",
            got=f"{len(heads)} layers with {len(order)} outputs",
        )
    with torch.no_grad():
        for weight in (heads[0].weight, heads[0].bias):
            if weight is not None:
                weight.copy_(weight[list(order)].clone())
