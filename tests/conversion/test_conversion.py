"""Folders to checkpoints and back, by the functions behind the two tools."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from editcaption_mega.conversion import (
    Box,
    DamagedCheckpointError,
    FolderReader,
    StoreReader,
    StoreWriter,
    check_same_model,
    rules_for,
)
from editcaption_mega.conversion.convert import hf_to_megatron, megatron_to_hf
from editcaption_mega.model import Architecture
from tests.helpers import small_job, small_store, tiny

KINDS = [("dense", True), ("dense", False), ("moe", True), ("moe", False)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    for kind, tied in KINDS:
        tiny.hf_model(experts=kind == "moe", tied=tied, layers=3).save_pretrained(root / f"{kind}-{tied}")
    return root


def tensors(folder):
    found = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("kind, tied", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_bitwise_and_transformers_loads_it(folders, tmp_path, kind, tied, dtype):
    source = tmp_path / "source"
    shutil.copytree(folders / f"{kind}-{tied}", source)
    save_file({n: t.to(dtype) for n, t in tensors(source).items()}, source / "model.safetensors", {"format": "pt"})
    hf_to_megatron(source, tmp_path / "store")
    megatron_to_hf(tmp_path / "store", tmp_path / "back", max_file_bytes=200_000)
    assert len(list((tmp_path / "back").glob("*.safetensors"))) > 1
    same(tensors(source), tensors(tmp_path / "back"))
    config = json.loads((source / "config.json").read_text())
    written = json.loads((tmp_path / "back/config.json").read_text())
    assert written["dtype"] == str(dtype).removeprefix("torch."), "what the weights are, whatever the folder said"
    assert written | {"dtype": None} == config | {"dtype": None}
    from transformers import AutoModelForImageTextToText

    _, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")), info


def test_released_expert_order_is_kept(folders, tmp_path):
    """[expert, in, out], as the released models store it: read rightly, written back the same."""
    plain, released = folders / "moe-False", tmp_path / "released"
    shutil.copytree(plain, released)
    turned = {
        name: tensor.transpose(1, 2).contiguous() if ".experts." in name else tensor
        for name, tensor in tensors(plain).items()
    }
    save_file(turned, released / "model.safetensors", {"format": "pt"})
    a, b = FolderReader(plain), FolderReader(released)
    assert (a.experts_in_out, b.experts_in_out) == (False, True)
    for rule in a.rules.values():
        assert torch.equal(a.read(rule), b.read(rule)), rule.name
    hf_to_megatron(released, tmp_path / "store")
    megatron_to_hf(tmp_path / "store", tmp_path / "back")
    same(turned, tensors(tmp_path / "back"))


def test_any_box_of_a_rule_equals_the_slice_of_the_whole(folders):
    for kind in ("dense-True", "moe-False"):
        reader = FolderReader(folders / kind)
        for rule in reader.rules.values():
            whole = reader.read(rule)
            for axis in {rule.tensor_axis, rule.expert_axis, rule.expert_tensor_axis} - {None}:
                half = rule.shape[axis] // 2
                start = tuple(half if i == axis else 0 for i in range(len(rule.shape)))
                shape = tuple(half if i == axis else n for i, n in enumerate(rule.shape))
                box = Box(start, shape)
                assert torch.equal(reader.read(rule, box), whole[box.within(Box.whole(rule.shape))]), rule.name


def test_existing_output_is_refused(folders, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for convert in (lambda: hf_to_megatron(folders / "dense-True", tmp_path),):
        with pytest.raises(ValueError, match="already holds something"):
            convert()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def damaged(folders, tmp_path, kind="dense-False"):
    folder = tmp_path / "damaged"
    shutil.copytree(folders / kind, folder)
    return folder


def test_folder_with_a_missing_tensor(folders, tmp_path):
    folder = damaged(folders, tmp_path)
    kept = tensors(folder)
    del kept["model.language_model.layers.1.mlp.up_proj.weight"]
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks the tensor model.language_model.layers.1.mlp.up_proj.weight"):
        hf_to_megatron(folder, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_folder_with_a_tensor_of_another_shape_or_too_many(folders, tmp_path):
    folder = damaged(folders, tmp_path)
    found = tensors(folder)
    changed = found | {"lm_head.weight": torch.zeros(3, 64)}
    save_file(changed, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lm_head.weight has shape \[3, 64\], config.json asks for \[512, 64\]"):
        FolderReader(folder)
    save_file(found | {"extra.weight": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="extra.weight"):
        FolderReader(folder)


def test_truncated_weights(folders, tmp_path):
    folder = damaged(folders, tmp_path)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="damaged or cannot be read"):
        FolderReader(folder)


def test_a_head_beside_tied_embeddings(folders, tmp_path):
    """The same matrix is no other head; another one would be dropped in silence, and transformers keeps it."""
    folder = damaged(folders, tmp_path, "dense-True")
    kept = tensors(folder)
    embedding = kept["model.language_model.embed_tokens.weight"]
    save_file(kept | {"lm_head.weight": embedding.clone()}, folder / "model.safetensors", {"format": "pt"})
    FolderReader(folder)
    head = embedding.clone()
    head[-1, -1] += 1
    for other in (head, head[:-1].clone()):
        save_file(kept | {"lm_head.weight": other}, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match="holds another lm_head.weight: set tie_word_embeddings=false .*or remove"):
            hf_to_megatron(folder, tmp_path / "store")


def test_no_head_beside_untied_embeddings(folders, tmp_path):
    folder = damaged(folders, tmp_path)
    kept = tensors(folder)
    del kept["lm_head.weight"]
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks the tensor lm_head.weight, .*set tie_word_embeddings=true there if"):
        FolderReader(folder)


def test_quantized_folders(folders, tmp_path):
    """By what config.json says, and by the weights themselves where it says nothing."""
    folder = damaged(folders, tmp_path)
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    quantized = tensors(folder)
    quantized[name] = quantized[name].to(torch.float8_e4m3fn)
    save_file(quantized | {name + "_scale_inv": torch.ones(1, 1)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="up_proj.weight is stored as F8_E4M3 .quantized, FP8.*not quantized"):
        FolderReader(folder)
    config = json.loads((folder / "config.json").read_text())
    for place in (config, config["text_config"]):
        place["quantization_config"] = {"quant_method": "awq", "bits": 4}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="config.json.*the weights are quantized .AWQ 4.*not quantized"):
            hf_to_megatron(folder, tmp_path / "store")
        with pytest.raises(
            ValueError, match="config.json.*the weights are quantized .AWQ.: .*by editcaption convert hf-to-megatron"
        ):
            FolderReader(folder)
        del place["quantization_config"]


def test_the_exported_dtype_is_that_of_most_weights(folders, tmp_path):
    """As the released files have it: in text_config alone, under either name; and fp32 vision beside bf16 language."""
    folder = damaged(folders, tmp_path)
    mixed = {n: t if "visual" in n else t.to(torch.bfloat16) for n, t in tensors(folder).items()}
    save_file(mixed, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    del config["dtype"]
    for part in ("text_config", "vision_config"):
        config[part].pop("dtype", None)
    for number, (key, part) in enumerate([("dtype", "text_config"), ("torch_dtype", "text_config"), (None, None)]):
        written = json.loads(json.dumps(config))
        if key:
            written[part][key] = "float32"
        (folder / "config.json").write_text(json.dumps(written))
        hf_to_megatron(folder, tmp_path / f"store{number}")
        megatron_to_hf(tmp_path / f"store{number}", tmp_path / f"back{number}")
        (written[part] if key else written)[key or "dtype"] = "bfloat16"
        assert json.loads((tmp_path / f"back{number}/config.json").read_text()) == written


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "model.bin", "", ".."]
)
def test_an_index_names_files_of_its_folder_only(folders, tmp_path, name):
    folder = damaged(folders, tmp_path)
    shutil.copy(folder / "model.safetensors", tmp_path / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    with pytest.raises(ValueError, match="expected safetensors files in the folder itself"):
        FolderReader(folder)


def test_an_index_that_names_the_wrong_file(folders, tmp_path):
    folder = damaged(folders, tmp_path)
    names = list(tensors(folder))
    save_file({"other": torch.zeros(1)}, folder / "b.safetensors")
    index = {"weight_map": {**dict.fromkeys(names, "model.safetensors"), names[0]: "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"b.safetensors does not hold {names[0]}"):
        FolderReader(folder)


def test_a_checkpoint_without_its_side_files(folders, tmp_path):
    hf_to_megatron(folders / "dense-False", tmp_path / "store")
    (tmp_path / "store/hf/config.json").unlink()
    with pytest.raises(ValueError, match="hf/config.json is missing"):
        megatron_to_hf(tmp_path / "store", tmp_path / "back")
    assert not list(tmp_path.glob("back*"))


def test_index_that_names_a_missing_file(folders, tmp_path):
    folder = damaged(folders, tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no weights"):
        FolderReader(folder)
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="lacks model-00001-of-00001.safetensors"):
        FolderReader(folder)


def test_store_damage_is_named(folders, tmp_path):
    hf_to_megatron(folders / "dense-False", tmp_path / "store")
    with pytest.raises(ValueError, match="neither a checkpoint"):
        megatron_to_hf(tmp_path, tmp_path / "back")
    file = next((tmp_path / "store").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match="the copy is incomplete"):
        StoreReader(tmp_path / "store")
    file.unlink()
    with pytest.raises(ValueError, match="is missing"):
        megatron_to_hf(tmp_path / "store", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_store_of_another_model(folders, tmp_path):
    hf_to_megatron(folders / "dense-False", tmp_path / "store")
    with pytest.raises(ValueError, match="checkpoint of another model"):
        check_same_model(StoreReader(tmp_path / "store"), Architecture.from_folder(folders / "moe-False"))


def test_store_reads_any_box_of_many(tmp_path):
    whole = torch.arange(60.0).view(6, 10)
    writer = StoreWriter(tmp_path / "store", max_file_bytes=80)
    for row in (0, 2, 4):
        for column in (0, 5):
            box = Box((row, column), (2, 5))
            writer.add("x", (6, 10), box, whole[box.within(Box.whole((6, 10)))])
    writer.finish()
    reader = StoreReader(tmp_path / "store")
    assert len(list((tmp_path / "store").glob("*.safetensors"))) > 2
    assert torch.equal(reader.read("x"), whole)
    assert torch.equal(reader.read("x", Box((1, 3), (4, 6))), whole[1:5, 3:9])
    with pytest.raises(ValueError, match="holds no tensor 'y'"):
        reader.read("y")


def test_side_files_travel(tmp_path):
    small_job.write_folder(tmp_path / "model")
    hf_to_megatron(tmp_path / "model", tmp_path / "store")
    megatron_to_hf(tmp_path / "store", tmp_path / "back")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {path.name for path in (tmp_path / "back").iterdir()}
    # A colleague or a service can read what was written, as the umask has it.
    (tmp_path / "plain").touch()
    written = [path for name in ("store", "back") for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert {path.stat().st_mode for path in written} == {(tmp_path / "plain").stat().st_mode}


def test_damage_is_noticed_by_a_conversion(folders, tmp_path):
    hf_to_megatron(folders / "dense-False", tmp_path / "store")
    for path in [next((tmp_path / "store").glob("*.safetensors")), tmp_path / "store/hf/config.json"]:
        small_store.flip(path, 8 * path.stat().st_size - 12)
        with pytest.raises(DamagedCheckpointError, match=path.name):
            megatron_to_hf(tmp_path / "store", tmp_path / "back")
        small_store.flip(path, 8 * path.stat().st_size - 12)
    assert not (tmp_path / "back").exists()


def test_the_table_of_rules_is_made_once_and_stays_as_it_is(folders):
    """Seven places ask for it, and a model of 94 layers with 128 experts has a long one."""
    one, other = (Architecture.from_folder(folders / "moe-False") for _ in range(2))
    assert rules_for(one) is rules_for(other) and rules_for(one) is not rules_for(one, experts_in_out=True)
    with pytest.raises(TypeError):
        rules_for(one)["x"] = None


def test_a_reader_that_is_told_the_layout_opens_files_only_to_read(folders, tmp_path):
    """One rank compares a folder with its config.json; the others need not open a hundred files for that."""
    folder = damaged(folders, tmp_path, "moe-False")
    expected, rules = tensors(folder), rules_for(Architecture.from_folder(folder))
    del expected["model.visual.merger.norm.weight"]
    save_file(expected, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks the tensor model.visual.merger.norm.weight"):
        FolderReader(folder)
    reader = FolderReader(folder, experts_in_out=False)
    whole = reader.read(rules["language.decoder.final_layernorm.weight"])
    assert torch.equal(whole, expected["model.language_model.norm.weight"])
