"""config.json with fields of any type: read, or refused in one sentence that names the field."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editcaption_mega.conversion import rules_for
from editcaption_mega.model import Architecture
from tests.helpers import released

CONFIGS = [released.config("8B"), released.config("235B-A22B")]
PLACES = [
    (*outer, key)
    for outer in ((), ("text_config",), ("vision_config",), ("text_config", "rope_scaling"))
    for key in (
        CONFIGS[1] if not outer else CONFIGS[1][outer[0]] if len(outer) == 1 else ["mrope_section", "rope_type"]
    )
]
VALUES = st.one_of(
    st.sampled_from(
        [None, True, False, 0, -1, 1, 2, 3, 7, 2**31, 2**40, 10**400, 1e308, 0.5, "", "8", [], {}, [0], [-1]]
    ),
    st.lists(st.integers(-2, 99) | st.text(max_size=2), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.text(max_size=8),
    st.integers(),
)


def changed(config, place, value):
    config = copy.deepcopy(config)
    *outer, last = place
    inner = config
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return config


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(CONFIGS), st.sampled_from(PLACES), VALUES)
def test_any_value_in_any_field(config, place, value):
    try:
        found = Architecture.from_config(changed(config, place, value), where="config.json")
    except ValueError as error:
        assert str(error).startswith("config.json") and "\n" not in str(error) and len(str(error)) < 400
    else:
        assert len(rules_for(found)) < 200_000, "what is read can be used"


@pytest.mark.parametrize(
    "place, value, words",
    [
        (("text_config", "num_hidden_layers"), 0, "'num_hidden_layers' is 0, expected a whole number from 1 to"),
        (("text_config", "num_hidden_layers"), 10**9, "'num_hidden_layers' is 1000000000, expected a whole number"),
        (("text_config", "hidden_size"), "4096", "'hidden_size' is '4096', expected a whole number"),
        (("text_config", "vocab_size"), 10**400, "'vocab_size' is 1000.*expected a whole number"),
        (("text_config", "rope_theta"), -5.0, "'rope_theta' is -5.0, expected a number above 0"),
        (("text_config", "rope_scaling"), [1], "rope_scaling is .1.: expected an object"),
        (("text_config", "num_experts_per_tok"), 129, "num_experts_per_tok 129 of only 128 experts"),
        (("tie_word_embeddings",), "false", "'tie_word_embeddings' is 'false', expected true or false"),
        (("vision_config", "depth"), True, "'depth' is True, expected a whole number"),
        (("vision_config", "deepstack_visual_indexes"), [8, 16, 27], "name a layer beyond the 27 of the vision tower"),
        (("vision_config", "num_heads"), 7, "is not made of 7 heads"),
        (("image_token_id",), 151936, "image_token_id is 151936, vocab_size only 151936"),
    ],
)
def test_absurd_values(place, value, words):
    with pytest.raises(ValueError, match=words):
        Architecture.from_config(changed(CONFIGS[1], place, value))


@pytest.mark.parametrize("content", ["", "[]", '{"a": NaN}', '{"a": 1, "a": 2}', "\x80", "[" * 100_000, "1" * 10_000])
def test_a_file_that_is_no_object(tmp_path, content):
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match="config.json: ") as error:
        Architecture.from_folder(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": ["qwen3_vl"]}))
    with pytest.raises(ValueError, match=r"model_type is \['qwen3_vl'\], expected"):
        Architecture.from_folder(tmp_path)
