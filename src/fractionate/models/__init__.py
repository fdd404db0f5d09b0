"""Models: registry and zoo, outputs, hooks, preparations (quantized, explaining), weights, export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.models.additive import explaining_mlp as explaining_mlp
    from fractionate.models.additive import prior_of as prior_of
    from fractionate.models.export import export_student as export_student
    from fractionate.models.function import FunctionTeacher as FunctionTeacher
    from fractionate.models.function import as_teacher_module as as_teacher_module
    from fractionate.models.hub import hf as hf
    from fractionate.models.hub_push import push_to_hub as push_to_hub
    from fractionate.models.names import ModelNeed as ModelNeed
    from fractionate.models.names import find_model as find_model
    from fractionate.models.names import find_parts as find_parts
    from fractionate.models.packed import load_packed as load_packed
    from fractionate.models.packed import save_packed as save_packed
    from fractionate.models.quantize import Quantization as Quantization
    from fractionate.models.quantize import prepare as prepare
    from fractionate.models.tokenizer import save_tokenizer as save_tokenizer
    from fractionate.models.weights import read_weights as read_weights
    from fractionate.models.zoo import cnn as cnn
    from fractionate.models.zoo import models as models
else:
    __getattr__, __dir__, __all__ = exports(__name__)
