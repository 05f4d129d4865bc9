"""What `model/transformer_engine.py` relies upon in Megatron-Core, read from its source, since TE needs a GPU.

A new Megatron-Core that changes it fails here; the numbers are for a machine with TE (tests/model/test_layouts.py)."""

import ast
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from megatron.core.transformer.enums import AttnMaskType

from editcaption_mega.model.transformer_engine import fusing


def classes(module: str) -> dict[str, ast.ClassDef]:
    """The classes of a module by name, without importing it."""
    tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text(encoding="utf-8"))
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


@pytest.fixture(scope="module")
def extensions():
    return classes("megatron.core.extensions.transformer_engine")


@pytest.fixture(scope="module")
def provider():
    return classes("megatron.core.extensions.transformer_engine_spec_provider")["TESpecProvider"]


def test_megatron_s_attention_wraps_te_s_alone(extensions):
    """`segment_attention_class` calls the forward of its one base class, and means TE's."""
    bases = extensions["TEDotProductAttention"].bases
    assert [ast.unparse(base) for base in bases] == ["te.pytorch.DotProductAttention"]


def test_its_forward_takes_packed_sequences(extensions):
    (forward,) = (
        node
        for node in extensions["TEDotProductAttention"].body
        if isinstance(node, ast.FunctionDef) and node.name == "forward"
    )
    names = [argument.arg for argument in forward.args.args]
    assert names[:5] == ["self", "query", "key", "value", "attention_mask"]
    assert {"attn_mask_type", "packed_seq_params"} <= set(names)
    # It hands the mask type on by name to the wrapped class, as we do.
    assert "attn_mask_type=attn_mask_type.name" in ast.unparse(forward)


def test_the_provider_names_the_modules(provider):
    methods = {node.name: node for node in provider.body if isinstance(node, ast.FunctionDef)}
    assert {"column_parallel_linear", "row_parallel_linear", "layer_norm", "core_attention"} <= methods.keys()
    assert {"rms_norm", "for_qk"} <= {argument.arg for argument in methods["layer_norm"].args.args}
    assert ast.unparse(methods["core_attention"].body[-1]) == "return TEDotProductAttention"


def test_megatron_still_lacks_the_mask_of_shared_prompts():
    """When it has it, `segment_attention_class` can give it to Megatron's own forward and call nothing else."""
    assert "padding_causal_bottom_right" not in AttnMaskType.__members__


@pytest.mark.parametrize("name", ["TELinear", "TELayerNormColumnParallelLinear"])
def test_its_linears_take_the_fusion_of_gradients_from_their_config(extensions, name):
    assert "fuse_wgrad_accumulation=self.config.gradient_accumulation_fusion" in ast.unparse(extensions[name])


def test_linears_are_told_to_fuse_and_the_rest_is_not():
    class Linear(torch.nn.Module):
        def __init__(self, size, *, config):
            super().__init__()
            self.config = config

    config = SimpleNamespace(gradient_accumulation_fusion=False, fused_weight_gradients=True)
    assert fusing(Linear)(3, config=config).config.gradient_accumulation_fusion
    assert not config.gradient_accumulation_fusion
