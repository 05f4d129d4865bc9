"""Settings of an evaluation run: lists of sections, and what cannot be meant."""

import dataclasses
from typing import get_args

import pytest
import yaml

from editcaption_mega.evaluation.judge.code_judges import CODE_JUDGES
from editcaption_mega.evaluation.rubric import COMPLETENESS_TABLES
from editcaption_mega.inference.endpoint.address import Endpoint
from editcaption_mega.settings import EndpointSettings, EvaluationSettings, PixelLimits, load_settings, save_settings
from editcaption_mega.settings.evaluation import JudgeKind

GOOD = """
output: runs/eval
benchmarks:
  - {name: synthetic, shards: data/held_out}
models:
  - {name: SFT, folder: runs/sft_hf}
  - name: served
    endpoint: {url: http://localhost:8000/v1, model: m, extra: {top_k: 1}}
judges:
  - {name: rule, kind: rule}
"""


def load(tmp_path, text, overrides=()):
    (tmp_path / "eval.yaml").write_text(text)
    return load_settings(tmp_path / "eval.yaml", list(overrides), EvaluationSettings)


def test_lists_of_sections_become_settings(tmp_path):
    settings = load(tmp_path, GOOD, ["generation.max_tokens=7"])
    assert [model.origin for model in settings.models] == ["folder", "endpoint"]
    assert settings.models[1].endpoint.extra == {"top_k": 1} and settings.generation.max_tokens == 7
    save_settings(settings, tmp_path / "again.yaml")
    assert load_settings(tmp_path / "again.yaml", [], EvaluationSettings) == settings


@pytest.mark.parametrize(
    "change, told",
    [
        (("shards:", "shard:"), "unknown setting 'benchmarks[0].shard': did you mean 'benchmarks[0].shards'?"),
        (("name: synthetic", "name: a/b"), "a name is 'a/b'"),
        (("name: served", "name: SFT"), "models: names must differ, found SFT, SFT"),
        (
            ("folder: runs/sft_hf", "folder: a, vllm: b"),
            "exactly one of folder, vllm, endpoint.url, instructions; found",
        ),
        ((", folder: runs/sft_hf", ""), "found none"),
        (("kind: rule", "kind: model"), "a model needs an endpoint"),
        (("kind: rule", "kind: rule, mode: x"), "mode is 'x', expected one of labels, paper"),
        (("model: m,", ""), "endpoint.model is empty"),
        (("  - {name: rule, kind: rule}", "  rule"), "'judges' must be a list of sections, found 'rule'"),
        (("runs/eval", "''"), "output is empty"),
        (("model: m,", "model: m, prompt_price: .nan,"), "models.1.endpoint.prompt_price=nan is no number"),
        (("model: m,", "model: m, max_reply_mib: .inf,"), "models.1.endpoint.max_reply_mib=inf is no number"),
        (("top_k: 1", "top_k: .nan"), "models.1.endpoint.extra.top_k=nan is no number"),
        (("kind: rule", "kind: rule, temperature: .nan"), "judges.0.temperature=nan is no number"),
        (("kind: rule", "kind: rule, temperature: -1"), "judge rule: temperature=-1.0 must lie in 0 .. 10"),
        (
            ("kind: rule", "kind: rule, top_p: 0.5, repeats: 2"),
            "judge rule: repeats, top_p is for judges of kind",
        ),
    ],
)
def test_what_cannot_be_meant_is_told(tmp_path, change, told):
    with pytest.raises(ValueError) as error:
        load(tmp_path, GOOD.replace(*change))
    assert told in str(error.value)


def test_every_field_of_an_endpoint_is_reached_from_a_file(tmp_path):
    """A field that the client has and no setting sets would keep its default, and nothing would say so."""
    values = {"url": "http://h/v1", "model": "m", "api_key_env": "A_KEY", "extra": {"top_k": 1}, "cache_as": "step 1"}
    for part in dataclasses.fields(EndpointSettings):
        if part.type in (int, float):
            values[part.name] = part.type(part.default + 1)
    pixels = {"min_pixels": 2048, "max_pixels": 4096}
    document = yaml.safe_load(GOOD) | {"generation": pixels}
    document["models"][1]["endpoint"] = values
    settings = load(tmp_path, yaml.safe_dump(document))
    endpoint = Endpoint.of(settings.models[1].endpoint, settings.generation)
    assert dataclasses.asdict(endpoint) == values | pixels
    untouched = Endpoint("http://h", "x")
    assert not [name for name, value in vars(endpoint).items() if value == getattr(untouched, name)]
    assert isinstance(settings.generation, PixelLimits) and len(values) >= 12


def test_the_rubric_has_the_tables_that_settings_name(tmp_path):
    for table in COMPLETENESS_TABLES:
        judge = f"kind: model, table: {table}, endpoint: {{url: 'http://h/v1', model: m}}"
        assert load(tmp_path, GOOD.replace("kind: rule", judge)).judges[0].table == table
    with pytest.raises(ValueError, match=f"table is 'x', expected one of {', '.join(COMPLETENESS_TABLES)}$"):
        load(tmp_path, GOOD.replace("kind: rule", "kind: rule, table: x"))


def test_every_kind_of_judge_is_a_model_or_has_its_code():
    assert ("model", *CODE_JUDGES) == get_args(JudgeKind)
