"""Settings of an evaluation run: lists of sections, and what cannot be meant."""

import pytest

from editcaption_mega.settings import EvaluationSettings, load_settings, save_settings

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
    ],
)
def test_what_cannot_be_meant_is_told(tmp_path, change, told):
    with pytest.raises(ValueError) as error:
        load(tmp_path, GOOD.replace(*change))
    assert told in str(error.value)
