"""A PEFT folder is a model: its texts are those of the folder with its adapters in the weights."""

import json
import shutil

import pytest
import torch

from editcaption_mega.conversion import WeightSource
from editcaption_mega.conversion.convert import merge_adapter
from editcaption_mega.data.batching.dataset import open_pairs
from editcaption_mega.data.text.side_files import ADAPTER_CONFIG
from editcaption_mega.inference import Generator
from editcaption_mega.inference.local.folder import check_model, folder_digests
from editcaption_mega.inference.local.instructions import write_missing
from editcaption_mega.settings import AdapterSettings
from tests.helpers import small_job
from tests.helpers.random_adapter import write_random_adapter

FORMS = {
    "every module": AdapterSettings(rank=4, alpha=8.0, modules=["self_attn.*", "mlp.*", "visual.*"]),
    "shared by experts": AdapterSettings(rank=4, experts="shared"),
    "half of a fused weight": AdapterSettings(rank=4, modules=["k_proj", "mlp.experts.down_proj"]),
    "DoRA": AdapterSettings(rank=4, alpha=8.0, dora=True, rslora=True, modules=["self_attn.*", "visual.*"]),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapted")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards", count=3)
    for form, settings in FORMS.items():
        write_random_adapter(root / form, root / "model", settings)
    return root


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["as the folder", "bf16"])
def test_the_weights_are_those_of_the_merged_folder(root, tmp_path, form, dtype):
    merge_adapter(root / form, tmp_path / "merged", base=root / "model", dtype=dtype)
    merged = Generator(tmp_path / "merged").model.state_dict()
    ours = Generator(root / form, dtype=dtype).model.state_dict()
    before = Generator(root / "model", dtype=dtype).model.state_dict()
    assert ours.keys() == merged.keys()
    changed = {name for name in before if not torch.equal(before[name], ours[name])}
    assert changed
    if dtype is None:
        assert all(torch.equal(ours[name], merged[name]) for name in ours)
    else:  # these are added to weights that are in bf16 already
        for name in ours:
            torch.testing.assert_close(ours[name], merged[name], rtol=2**-6, atol=2**-7)


def test_texts_are_those_of_the_merged_folder(root, tmp_path):
    merge_adapter(root / "every module", tmp_path / "merged", base=root / "model")

    def texts(folder):
        dataset = open_pairs([str(root / "shards")], folder, min_pixels=1024, max_pixels=1 << 20)
        every = range(len(dataset))
        return list(
            write_missing(
                Generator(folder), dataset, every, set(every), max_new_tokens=12, temperature=1.0, seed=1, batch_size=2
            )
        )

    adapted = texts(root / "every module")
    assert adapted == texts(tmp_path / "merged") != texts(root / "model")


def test_texts_are_kept_under_weights_and_adapters(root):
    base, adapted, other = (folder_digests(root / name) for name in ("model", "every module", "DoRA"))
    assert base["files"] == adapted["files"] == other["files"]
    assert len({base["weights"], adapted["weights"], other["weights"]}) == 3
    assert folder_digests(root / "DoRA") == other


def changed_config(root, tmp_path, **fields):
    shutil.copytree(root / "DoRA", tmp_path / "adapter")
    path = tmp_path / "adapter" / ADAPTER_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return tmp_path / "adapter"


def test_adapters_without_their_weights_are_refused(root, tmp_path):
    small_job.write_folder(tmp_path / "other", small_job.SIZE.__class__(**{**vars(small_job.SIZE), "num_layers": 2}))
    for base, words in (
        (None, "names no model: write the folder of the weights"),
        ("Qwen/Qwen3-VL-8B-Instruct", "names Qwen/Qwen3-VL-8B-Instruct, which is no folder here"),
        (str(root / "every module"), "names .*every module, which holds adapters: put those into their weights first"),
        (str(tmp_path / "other"), r"was trained on the weights of .* and .*other has others"),
    ):
        folder = changed_config(root, tmp_path, base_model_name_or_path=base)
        with pytest.raises(ValueError, match=words):
            check_model(folder)
        shutil.rmtree(folder)


def test_adapters_of_other_weights_are_refused(root, tmp_path):
    shutil.copytree(root / "model", tmp_path / "model")
    weights = tmp_path / "model/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    folder = changed_config(root, tmp_path, base_model_name_or_path=str(tmp_path / "model"))
    with pytest.raises(ValueError, match=r"was trained on the weights of .* and .*model has others"):
        WeightSource.of(folder)
