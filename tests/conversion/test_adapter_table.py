"""Which Hugging Face modules have adapters, and that an adapter of a fused weight is those of its parts."""

import pytest
import torch

from editcaption_mega.conversion.adapter_table import AdapterChoice, adapter_table
from editcaption_mega.model import Architecture
from editcaption_mega.settings import AdapterSettings, SettingsError
from tests.helpers import tiny


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    for kind in ("dense", "moe"):
        tiny.hf_model(experts=kind == "moe", layers=2).config.save_pretrained(root / kind)
    return {kind: Architecture.from_folder(root / kind) for kind in ("dense", "moe")}


def choice(architecture, *modules, precision="fp32", frozen=(), **options) -> AdapterChoice:
    settings = AdapterSettings(**{"rank": 4} | options | ({"modules": list(modules)} if modules else {}))
    settings.validate()
    chosen = AdapterChoice.of(architecture, settings, precision=precision, frozen=frozen)
    assert chosen is not None
    return chosen


def names(chosen) -> list[str]:
    return [target.name.removeprefix("model.language_model.layers.") for target in chosen.targets]


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_the_table_has_every_linear_layer_of_transformers(folders, kind):
    """And the parameters of experts and routers, which are no linear layers there; not the head, nor the patches."""
    model = tiny.hf_model(experts=kind == "moe", layers=2)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)} - {"lm_head"}
    experts = {name for name, _ in model.named_parameters() if ".experts." in name}
    routers = {name.removesuffix(".weight") for name, _ in model.named_parameters() if name.endswith("mlp.gate.weight")}
    table = adapter_table(folders[kind])
    assert {target.name for target in table} == linear | experts | routers
    assert bool(experts) == bool(routers) == (kind == "moe")
    for target in table:
        weight = model.get_parameter(target.name if target.of_experts else f"{target.name}.weight")
        a, b = target.rules(AdapterSettings(rank=4))
        assert a.shape[-1] == weight.shape[-1] and b.size // 4 == weight.numel() // weight.shape[-1]


def test_patterns_match_whole_names_or_from_a_dot_on(folders):
    assert names(choice(folders["dense"], "layers.1.self_attn.[qv]_proj")) == [
        "1.self_attn.q_proj",
        "1.self_attn.v_proj",
    ]
    assert names(choice(folders["dense"], "model.language_model.layers.0.mlp.up_proj")) == ["0.mlp.up_proj"]
    assert len(choice(folders["dense"]).targets) == 2 * 7
    assert names(choice(folders["moe"], "mlp.gate", "layers.0.mlp.experts.*")) == [
        "0.mlp.gate", "0.mlp.experts.gate_up_proj", "0.mlp.experts.down_proj", "1.mlp.gate",
    ]  # fmt: skip
    assert all(name.startswith("model.visual.") for name in names(choice(folders["moe"], "visual.*")))


def test_what_is_matched_is_counted(folders):
    first, *kinds = choice(folders["dense"], "self_attn.q_proj", "mlp.down_proj").lines()
    assert "on 4 modules: 4,096 parameters" in first
    assert kinds == [
        "       2 x model.language_model.layers.*.self_attn.q_proj",
        "       2 x model.language_model.layers.*.mlp.down_proj",
    ]


@pytest.mark.parametrize(
    "kind, modules, options, words",
    [
        ("dense", ["self_attn.q_proj", "mlp.gate"], {}, ["'mlp.gate' matches nothing", "*.self_attn.q_proj", "visual"]),
        ("moe", ["mlp.up_proj"], {}, ["'mlp.up_proj' matches nothing", "mlp.experts.gate_up_proj"]),
        ("dense", ["visual.*"], {"frozen": ("vision",)}, ["model.visual.blocks.0.attn.qkv", "optimizer.vision=0"]),
        ("dense", ["k_proj"], {"rank": 128}, ["rank=128 is more than the 64", "self_attn.k_proj", "lower it"]),
        ("moe", ["mlp.gate"], {"rank": 16}, ["rank=16 is more than the 8", "mlp.gate"]),
        ("moe", ["down_proj"], {"rank": 6}, ["rank=6", "training.precision=fp32", "a multiple of 4", "shared"]),
        ("moe", ["down_proj"], {"precision": "bf16"}, ["rank=4", "precision=bf16", "a multiple of 8"]),
        ("moe", ["mlp.*"], {"dora": True}, ["dora=True", "mlp.gate", "leave it out"]),
        ("moe", ["down_proj"], {"dropout": 0.1}, ["dropout=0.1", "mlp.experts.down_proj"]),
    ],
)  # fmt: skip
def test_adapters_that_cannot_be_are_one_sentence(folders, kind, modules, options, words):
    with pytest.raises(SettingsError) as error:
        choice(folders[kind], *modules, **options)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"alpha": 8.0}, ["model.adapters.alpha=8.0", "rank above 0"]),
        ({"modules": ["q_proj"]}, ["model.adapters.modules=['q_proj']", "rank above 0"]),
        ({"rank": -1}, ["model.adapters.rank"]),
        ({"rank": 4, "alpha": 0.0}, ["alpha=0.0 must be above 0"]),
        ({"rank": 4, "dropout": 1.0}, ["dropout=1.0"]),
        ({"rank": 4, "modules": []}, ["modules is empty"]),
    ],
)
def test_settings_that_would_do_nothing_are_refused(options, words):
    with pytest.raises(SettingsError) as error:
        AdapterSettings(**options).validate()
    assert all(word in str(error.value) for word in words)


def test_rslora_divides_by_the_root():
    assert AdapterSettings(rank=16, alpha=32.0).scale == 2
    assert AdapterSettings(rank=16, alpha=32.0, rslora=True).scale == 8
