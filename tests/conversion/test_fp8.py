"""FP8 folders become the numbers of their publishers' rule, computed here by plain loops; others are refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from editcaption_mega.conversion import FolderReader, StoreReader
from editcaption_mega.conversion.convert import hf_to_megatron, megatron_to_hf, source_architecture
from editcaption_mega.conversion.fp8 import Fp8
from tests.helpers import tiny

BLOCK = (48, 40)  # divides no matrix of the small models: the last blocks are cut
FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": list(BLOCK)}
COMPRESSED = {"quant_method": "compressed-tensors", "format": "float-quantized"}
LARGEST = 448.0  # of float8_e4m3fn


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    root = tmp_path_factory.mktemp("plain")
    for experts in (False, True):
        tiny.hf_model(experts=experts, layers=2).save_pretrained(root / ("moe" if experts else "dense"))
    return root


def blocks(matrix, size):
    """(rows, columns) of each block, and where its scale is."""
    for i in range(-(-matrix.shape[0] // size[0])):
        for j in range(-(-matrix.shape[1] // size[1])):
            yield (i, j), (slice(i * size[0], (i + 1) * size[0]), slice(j * size[1], (j + 1) * size[1]))


def quantize(matrix, size):
    """(values, scales, the numbers that they stand for) of a matrix [out, in], block by block."""
    scales = torch.empty(-(-matrix.shape[0] // size[0]), -(-matrix.shape[1] // size[1]))
    values, numbers = torch.empty(matrix.shape, dtype=torch.float8_e4m3fn), torch.empty(matrix.shape)
    for at, where in blocks(matrix, size):
        scales[at] = matrix[where].abs().max() / LARGEST
        values[where] = (matrix[where] / scales[at]).to(torch.float8_e4m3fn)
        numbers[where] = values[where].float() * scales[at]
    return values, scales, numbers


def is_quantized(name, tensor):
    return "language_model.layers" in name and tensor.dim() > 1 and "mlp.gate.weight" not in name


def fp8_folder(source, folder, *, scales="block", apart=False):
    """The folder in FP8, and the fp32 numbers of each tensor of it, under the names of the plain folder."""
    shutil.copytree(source, folder)
    written, numbers = {}, {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if not is_quantized(name, tensor):
            written[name] = numbers[name] = tensor
            continue
        matrices = tensor if tensor.dim() == 3 else tensor[None]
        size = {"block": BLOCK, "tensor": matrices.shape[1:], "row": (1, matrices.shape[2])}[scales]
        parts = [quantize(matrix, size) for matrix in matrices]
        values, scale, number = (torch.stack(part) for part in zip(*parts, strict=True))
        numbers[name] = number if tensor.dim() == 3 else number[0]
        suffix = "_scale_inv" if scales == "block" else "_scale"
        if apart and tensor.dim() == 3:
            written |= of_each_expert(name, values, scale, suffix)
            continue
        if tensor.dim() == 2:
            values, scale = values[0], scale[0].reshape(()) if scales == "tensor" else scale[0]
        written |= {name: values, name + suffix: scale}
    save_file({n: t.contiguous() for n, t in written.items()}, folder / "model.safetensors", {"format": "pt"})
    say(folder, FP8 if scales == "block" else COMPRESSED)
    return folder, numbers


def of_each_expert(name, values, scales, suffix):
    """As releases have them: gate, up and down of each expert, with scales of their own. The tiny model's halves of 48
    rows are whole blocks."""
    tensors, prefix = {}, name.rpartition(".")[0]
    for expert, (matrix, scale) in enumerate(zip(values, scales, strict=True)):
        halves = (("gate", 0), ("up", 1)) if name.endswith("gate_up_proj") else (("down", None),)
        for which, half in halves:
            weight = f"{prefix}.{expert}.{which}_proj.weight"
            tensors[weight] = matrix if half is None else matrix.chunk(2)[half]
            tensors[weight + suffix] = scale.clone() if half is None or scale.shape[0] == 1 else scale.chunk(2)[half]
    return tensors


def say(folder, quantization, place=None):
    config = json.loads((folder / "config.json").read_text())
    (config if place is None else config[place])["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "kind, scales, apart",
    [("dense", "block", False), ("dense", "tensor", False), ("dense", "row", False), ("moe", "block", False),
     ("moe", "block", True), ("moe", "tensor", True), ("moe", "row", False)],
)  # fmt: skip
def test_an_fp8_folder_becomes_the_numbers_of_its_rule(plain, tmp_path, kind, scales, apart):
    dtype = torch.float32 if apart else None
    folder, numbers = fp8_folder(plain / kind, tmp_path / "fp8", scales=scales, apart=apart)
    hf_to_megatron(folder, tmp_path / "store", dtype=dtype, verify=True)
    megatron_to_hf(tmp_path / "store", tmp_path / "back", verify=True)
    back = load_file(tmp_path / "back/model.safetensors")
    assert back.keys() == numbers.keys()
    quantized = 0
    for name, tensor in back.items():
        expected = numbers[name]
        if is_quantized(name, expected):
            expected, quantized = expected.to(dtype or torch.bfloat16), quantized + 1
        assert tensor.dtype == expected.dtype and torch.equal(tensor, expected), name
    assert quantized >= 10
    config = json.loads((tmp_path / "back/config.json").read_text())
    values = [tensor.dtype for tensor in back.values() for _ in range(tensor.numel() // 16)]
    assert "quantization_config" not in config
    assert config["dtype"] == str(max(set(values), key=values.count)).removeprefix("torch."), "what most values are"


def test_blocks_are_those_of_transformers(plain, tmp_path):
    """Its own dequantization, where the blocks divide the matrix."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    matrix = torch.randn(96, 80, generator=torch.Generator().manual_seed(1))
    values, scales, _ = quantize(matrix, BLOCK)
    ours = Fp8(BLOCK).numbers(values, scales, (96, 80), (slice(0, 96), slice(0, 80)))
    assert torch.equal(Fp8Dequantize(None)._dequantize_one(values, scales, torch.float32), ours)
    region = (slice(50, 90), slice(3, 77))
    assert torch.equal(Fp8(BLOCK).numbers(values[region], scales, (96, 80), region), ours[region])


def test_scales_of_activations_are_left_out(plain, tmp_path):
    folder, _ = fp8_folder(plain / "dense", tmp_path / "fp8")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.language_model.layers.0.mlp.up_proj.input_scale"] = torch.ones(1)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    hf_to_megatron(folder, tmp_path / "store")
    assert "weights/language.decoder.layers.0.mlp.linear_fc1.weight" in StoreReader(tmp_path / "store").tensors


def test_fp8_without_its_scales_or_with_others(plain, tmp_path):
    folder, _ = fp8_folder(plain / "dense", tmp_path / "fp8")
    whole, name = load_file(folder / "model.safetensors"), "model.language_model.layers.1.mlp.up_proj.weight"
    scale = whole.pop(name + "_scale_inv")
    save_file(whole, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"{name} is stored as FP8, and the scale of its values is missing"):
        hf_to_megatron(folder, tmp_path / "store")
    save_file(whole | {name + "_scale_inv": scale[:-1].clone()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"the scale of .*up_proj.weight.* expected one for each block of 48 x 40"):
        hf_to_megatron(folder, tmp_path / "store")
    scales = {name + "_scale_inv": scale.to(torch.float8_e5m2)}
    save_file(whole | scales, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="up_proj.weight_scale_inv is stored as F8_E5M2, which cannot be used"):
        hf_to_megatron(folder, tmp_path / "store")
    save_file(whole | {name + "_scale_inv": scale}, folder / "model.safetensors", {"format": "pt"})
    say(folder, FP8 | {"weight_block_size": [128]})
    with pytest.raises(ValueError, match=r"the blocks of the FP8 weights are \[128\], expected two sizes"):
        hf_to_megatron(folder, tmp_path / "store")


@pytest.mark.parametrize(
    "quantization, name",
    [({"quant_method": "awq", "bits": 4}, "AWQ 4"), ({"quant_method": "gptq"}, "GPTQ"),
     ({"quant_method": "fp8", "fmt": "e5m2"}, "FP8 e5m2"), 
     ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "NVFP4"),
     (COMPRESSED | {"format": "pack-quantized"}, "COMPRESSED-TENSORS pack-quantized"), ("odd", "ODD"), ({}, "UNKNOWN")],
)  # fmt: skip
@pytest.mark.parametrize("place", [None, "text_config"])
def test_other_quantizations_are_refused_by_name(plain, tmp_path, quantization, name, place):
    folder = shutil.copytree(plain / "dense", tmp_path / "quantized")
    say(folder, quantization, place)
    for refused in (source_architecture, lambda folder: hf_to_megatron(folder, tmp_path / "store")):
        with pytest.raises(ValueError, match=f"config.json: the weights are quantized .*{name}.*cannot be converted"):
            refused(folder)
    assert not list(tmp_path.glob("store*"))


def test_training_from_an_fp8_folder_says_how_to_convert_it(plain, tmp_path):
    folder, _ = fp8_folder(plain / "dense", tmp_path / "fp8")
    with pytest.raises(
        ValueError, match="quantized .FP8.*make a checkpoint of FP8 weights by editcaption convert hf-to-megatron"
    ):
        FolderReader(folder)
