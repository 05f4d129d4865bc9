"""Layouts and folders that cannot work are refused before anything is built, with the mend."""

import dataclasses
import json
import sys

import pytest

from editcaption_mega.model import Architecture
from editcaption_mega.model.build import transformer_config
from editcaption_mega.model.layers import MODULES, check_backend
from editcaption_mega.model.layout_check import check_layout
from editcaption_mega.model.pipeline_split import split_layers
from editcaption_mega.model.recompute import check_recompute
from editcaption_mega.settings import BACKENDS, ModelSettings, ParallelSettings
from tests.helpers import released, tiny


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    out = {}
    for kind in ("dense", "moe"):
        out[kind] = tmp_path_factory.mktemp(kind)
        tiny.hf_model(experts=kind == "moe", layers=8).config.save_pretrained(out[kind])
    return out


@pytest.mark.parametrize(
    "kind, options, words",
    [
        ("dense", dict(tensor_model_parallel_size=8), "does not divide the 4 kv heads"),
        ("dense", dict(tensor_model_parallel_size=3), "does not divide the 4 kv heads"),
        ("dense", dict(pipeline_model_parallel_size=9), "8 layers are too few for 9 pipeline chunks"),
        (
            "dense",
            dict(pipeline_model_parallel_size=2, layers_per_chunk=[4, 3]),
            r"layers_per_chunk=\[4, 3\] has 7 layers, the model has 8",
        ),
        ("dense", dict(expert_model_parallel_size=2), "needs a mixture-of-experts model"),
        ("moe", dict(expert_model_parallel_size=3), "does not divide the 8 experts"),
        ("moe", dict(expert_tensor_parallel_size=5), "does not divide the 48 expert feed-forward channels"),
        ("moe", dict(tensor_model_parallel_size=2, sequence_parallel=False), "set it to true"),
    ],
)
def test_refused_layouts(folders, kind, options, words):
    with pytest.raises(ValueError, match=words):
        check_layout(Architecture.from_folder(folders[kind]), ParallelSettings(**options))


@pytest.mark.parametrize("counts", [None, [2] + [3] * 30 + [2], [0] + [3] * 30 + [4]])
def test_nvidias_preset_for_235b_is_possible(counts):
    """TP2, PP8, VPP4, EP32 on 256 GPUs: its first chunk holds fewer layers than take DeepStack's features."""
    architecture = Architecture.from_config(released.config("235B-A22B"))
    parallel = ParallelSettings(
        tensor_model_parallel_size=2, pipeline_model_parallel_size=8, virtual_pipeline_model_parallel_size=4,
        expert_model_parallel_size=32, expert_tensor_parallel_size=1, layers_per_chunk=counts,
    )  # fmt: skip
    parallel.validate()
    assert parallel.data_parallel_size(256) == 16
    check_layout(architecture, parallel)
    assert split_layers(94, parallel)[0] < len(architecture.vision.deepstack_layers)
    transformer_config(architecture, ModelSettings(), parallel, "bf16")


@pytest.mark.parametrize("kind, module", [("dense", "moe"), ("dense", "moe_act"), ("moe", "mlp")])
def test_modules_to_recompute_that_the_model_lacks(folders, kind, module):
    settings = ModelSettings(recompute="selective", recompute_modules=["layernorm", module])
    with pytest.raises(ValueError, match=f"has {module}, but the model is .*: leave {module} out"):
        check_recompute(Architecture.from_folder(folders[kind]), settings)
    check_recompute(Architecture.from_folder(folders["dense" if kind == "moe" else "moe"]), settings)


def test_every_backend_of_the_settings_has_modules():
    assert set(MODULES) == set(BACKENDS) and len(set(BACKENDS)) == len(BACKENDS)


def test_backend_without_transformer_engine():
    with pytest.raises(ValueError, match=f"expected one of {', '.join(MODULES)}"):
        check_backend("te")
    try:
        import transformer_engine.pytorch  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="not installed.*model.backend=torch"):
            check_backend("transformer_engine")


def test_transformer_engine_that_cannot_be_imported_is_refused_with_its_reason(tmp_path, monkeypatch):
    """Megatron takes a mock in its place, and the job would die of that."""
    (tmp_path / "transformer_engine" / "pytorch").mkdir(parents=True)
    (tmp_path / "transformer_engine" / "__init__.py").touch()
    (tmp_path / "transformer_engine" / "pytorch" / "__init__.py").write_text("raise OSError('undefined symbol: _Z')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformer_engine"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be imported \(undefined symbol: _Z\).*make transformer-engine"):
        check_backend("transformer_engine")
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformer_engine"]:
        del sys.modules[name]


def test_the_host_waits_for_no_transfer_between_stages(folders):
    parallel = ParallelSettings(pipeline_model_parallel_size=2)
    config = transformer_config(Architecture.from_folder(folders["dense"]), ModelSettings(), parallel, "fp32")
    assert config.batch_p2p_comm and not config.batch_p2p_sync


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model_type": "qwen2_vl"}, "model_type is 'qwen2_vl'"),
        ({"image_token_id": None}, "lacks 'image_token_id'"),
        ({"text_config": None}, "text_config is missing"),
        ({"text_config.num_key_value_heads": None}, "lacks 'num_key_value_heads'"),
        ({"text_config.attention_bias": True}, "only False is supported"),
        ({"text_config.rope_parameters.mrope_section": [6, 5, 4]}, "sums to 15, expected head_dim / 2 = 16"),
        ({"vision_config.out_hidden_size": 32}, "out_hidden_size 32 differs"),
    ],
)
def test_configs_that_are_not_qwen3_vl(folders, change, words):
    config = json.loads((folders["dense"] / "config.json").read_text())
    for path, value in change.items():
        *outer, last = path.split(".")
        place = config
        for key in outer:
            place = place[key]
        place[last] = value
    with pytest.raises(ValueError, match=words):
        Architecture.from_config(config)


def test_folder_without_config(tmp_path):
    with pytest.raises(ValueError, match="lacks config.json: expected config.json"):
        Architecture.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        Architecture.from_folder(tmp_path)


def test_released_spelling_of_rotary_settings(folders):
    config = json.loads((folders["dense"] / "config.json").read_text())
    rope = config["text_config"].pop("rope_parameters")
    config["text_config"]["rope_theta"] = rope["rope_theta"]
    config["text_config"]["rope_scaling"] = {
        "rope_type": "default",
        "mrope_section": rope["mrope_section"],
        "mrope_interleaved": True,
    }
    assert Architecture.from_config(config) == dataclasses.replace(
        Architecture.from_folder(folders["dense"]), hf_config=config
    )


def test_tied_comes_from_the_top_level(folders):
    config = json.loads((folders["dense"] / "config.json").read_text())
    config["tie_word_embeddings"], config["text_config"]["tie_word_embeddings"] = True, False
    assert Architecture.from_config(config).tied_embeddings
    assert Architecture.from_config(config).vocab_size == tiny.VOCABULARY
