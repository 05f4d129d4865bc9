"""What a Hugging Face folder says: where each thing may stand, in the order of transformers' own processor."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editcaption_mega.data.images.patches import ImageSettings
from editcaption_mega.data.text.prompt import ChatEncoder, Prompt, folder_notes, load_tokenizer, trained_side_files
from editcaption_mega.data.text.side_files import CHAT_TEMPLATES, SideFiles, model_folder, weight_index
from editcaption_mega.model.random_folder import CHAT_TEMPLATE, train_tokenizer

PICTURES = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
# What Qwen3-VL's Thinking releases do: a thought opened in the generation prompt, an answered turn with one.
THINKING = CHAT_TEMPLATE.replace("assistant\\n", "assistant\\n<think>\\n").replace(
    "{{- '<|im_start|>' + message.role + '\\n' -}}",
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.role == 'assistant' -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}",
)


@pytest.fixture
def folder(tmp_path):
    train_tokenizer(["Make the red circle blue"], vocabulary=300).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PICTURES))
    (tmp_path / "chat_template.jinja").unlink()
    return tmp_path


def put_template(folder, name, template):
    path = folder / name
    if name.endswith(".jinja"):
        path.write_text(template)
    else:
        held = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(held | {"chat_template": template}))


def marked(name):
    return CHAT_TEMPLATE.replace("<|im_start|>assistant", f"<|im_start|>assistant from {name}")


@pytest.mark.parametrize("first", range(len(CHAT_TEMPLATES)))
def test_the_order_of_the_places_is_that_of_transformers(folder, first):
    for name in CHAT_TEMPLATES[first:]:
        put_template(folder, name, marked(name))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.chat_template == marked(CHAT_TEMPLATES[first])
    notes = folder_notes(folder, tokenizer)
    assert len(notes) == len(CHAT_TEMPLATES) - first - 1
    assert all(
        f"of {CHAT_TEMPLATES[first]} and" in note and f"{CHAT_TEMPLATES[first]} is taken" in note for note in notes
    )
    # transformers itself: the processor's places, and AutoTokenizer for the last
    from transformers import AutoTokenizer
    from transformers.processing_utils import ProcessorMixin

    theirs = ProcessorMixin.get_processor_dict(str(folder))[0].get("chat_template")
    assert (theirs or AutoTokenizer.from_pretrained(folder).chat_template) == tokenizer.chat_template


def test_equal_templates_are_no_news(folder):
    for name in CHAT_TEMPLATES:
        put_template(folder, name, CHAT_TEMPLATE)
    assert folder_notes(folder, load_tokenizer(folder)) == []


def test_named_templates(folder):
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": CHAT_TEMPLATE}]
    put_template(folder, "tokenizer_config.json", named)
    assert load_tokenizer(folder).chat_template == CHAT_TEMPLATE
    put_template(folder, "tokenizer_config.json", named[:1])
    with pytest.raises(ValueError, match="tokenizer_config.json: `chat_template` is of type list, expected the text"):
        load_tokenizer(folder)


def test_no_template_and_templates_that_are_none(folder):
    with pytest.raises(ValueError, match="has no chat template: expected chat_template.jinja"):
        load_tokenizer(folder)
    for template, words in [
        ("{% for %}", "chat_template.jinja: the chat template cannot be applied"),
        ("{{ raise_exception('no system turn') }}", "cannot be applied .no system turn"),
        ("{{ 1 / 0 }}", "cannot be applied .division by zero"),
        ("<|im_start|>{{ messages[0].role }}", "has no generation prompt"),
        (CHAT_TEMPLATE.replace("<|image_pad|>", ""), "yields 0 <.image_pad.> slots for two pictures"),
    ]:
        put_template(folder, "chat_template.jinja", template)
        with pytest.raises(ValueError, match=words) as error:
            ChatEncoder(load_tokenizer(folder), Prompt.load())
        assert "\n" not in str(error.value)


def test_a_thought_is_closed_before_the_answer(folder):
    """As the template itself shows an answered turn; and the same text for whoever serves the exported model."""
    put_template(folder, "chat_template.jinja", THINKING)
    tokenizer = load_tokenizer(folder)
    encoder, plain = ChatEncoder(tokenizer, Prompt.load()), THINKING
    answered = [*encoder.prompt.messages(), {"role": "assistant", "content": "Blue."}]
    whole = tokenizer.apply_chat_template(answered, chat_template=plain, tokenize=False)
    prompt = encoder.prompt_ids(1, 1)
    assert whole == tokenizer.decode([*prompt, *encoder.answer_ids("Blue.")]) + "\n"
    assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    (note,) = folder_notes(folder, tokenizer)
    assert "chat_template.jinja opens a thought (<think>) where the answer begins: it is closed in the prompt" in note
    trained_side_files(SideFiles.read(folder), tokenizer).write(folder / "hf")
    (folder / "hf/preprocessor_config.json").write_text(json.dumps(PICTURES))
    again = ChatEncoder(load_tokenizer(folder / "hf"), Prompt.load())
    assert again.prompt_ids(1, 1) == prompt and again.fingerprints == encoder.fingerprints
    assert folder_notes(folder / "hf", again.tokenizer) == []
    put_template(folder / "hf", "chat_template.jinja", CHAT_TEMPLATE)
    other = ChatEncoder(load_tokenizer(folder / "hf"), Prompt.load())
    assert {k for k, v in other.fingerprints.items() if v != encoder.fingerprints[k]} == {"chat_template"}


def test_a_thought_that_the_template_never_closes(folder):
    put_template(folder, "chat_template.jinja", CHAT_TEMPLATE.replace("assistant\\n", "assistant\\n<think>"))
    encoder = ChatEncoder(load_tokenizer(folder), Prompt.load())
    assert encoder.tokenizer.decode(encoder.prompt_ids(1, 1)).endswith("<think>\n</think>\n\n")
    put_template(folder, "chat_template.jinja", "{% set add_generation_prompt = true %}<think>")
    with pytest.raises(ValueError, match="chat_template.jinja: the chat template .*"):
        load_tokenizer(folder)


def test_trained_side_files(folder):
    """One template in every place, and the end of turn among the ends: what was trained is what is exported."""
    for name in CHAT_TEMPLATES:
        put_template(folder, name, marked(name))
    (folder / "generation_config.json").write_text('{"eos_token_id": 0, "top_p": 0.8}')
    tokenizer = load_tokenizer(folder)
    files = trained_side_files(SideFiles.read(folder), tokenizer)
    assert set(files.chat_templates().values()) == {marked("processor_config.json")}
    assert list(files.chat_templates()) == list(CHAT_TEMPLATES)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert files.json("generation_config.json") == {"eos_token_id": [end, 0], "top_p": 0.8}
    (folder / "generation_config.json").unlink()
    assert trained_side_files(SideFiles.read(folder), tokenizer).end_ids() == [end]
    for unchanged in (end, [0, end]):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": unchanged}))
        files = trained_side_files(SideFiles.read(folder), tokenizer)
        assert files.contents["generation_config.json"] == (folder / "generation_config.json").read_bytes()


def test_files_are_held(folder):
    """What is written later is what was read, whatever became of the folder."""
    put_template(folder, "chat_template.jinja", CHAT_TEMPLATE)
    files = SideFiles.read(folder)
    names = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in names:
        (folder / name).unlink()
    files.write(folder / "again")
    assert {path.name: path.read_bytes() for path in (folder / "again").iterdir()} == names


def test_the_image_processor_stands_in_either_file(folder):
    limits = dict(min_pixels=1024, max_pixels=4096)
    expected = ImageSettings.from_folder(folder, **limits)
    (folder / "processor_config.json").write_text('{"processor_class": "Qwen3VLProcessor"}')
    assert ImageSettings.from_folder(folder, **limits) == expected, "a processor without the settings inside"
    inside = PICTURES | {"patch_size": 14}
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": inside}))
    assert ImageSettings.from_folder(folder, **limits).patch_size == 14, "transformers takes what is inside"
    put_template(folder, "chat_template.jinja", CHAT_TEMPLATE)
    (note,) = folder_notes(folder, load_tokenizer(folder))
    assert (
        "picture settings of processor_config.json and preprocessor_config.json differ: processor_config.json" in note
    )
    (folder / "preprocessor_config.json").unlink()
    assert ImageSettings.from_folder(folder, **limits).patch_size == 14
    (folder / "processor_config.json").unlink()
    with pytest.raises(ValueError, match="lacks preprocessor_config.json.*or processor_config.json with `image_proc"):
        ImageSettings.from_folder(folder, **limits)


@pytest.mark.parametrize("change", [{"do_normalize": False}, {"rescale_factor": 1.0}, {"resample": 2}])
def test_pictures_treated_otherwise_are_refused(folder, change):
    (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES | change))
    with pytest.raises(ValueError, match=f"`{next(iter(change))}` is .*, only .* is supported"):
        ImageSettings.from_folder(folder, min_pixels=1, max_pixels=2)


def test_a_tokenizer_beyond_the_embedding(folder):
    put_template(folder, "chat_template.jinja", CHAT_TEMPLATE)
    largest = max(load_tokenizer(folder).get_vocab().values())
    (folder / "config.json").write_text(json.dumps({"text_config": {"vocab_size": largest + 1}}))
    load_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps({"text_config": {"vocab_size": largest}}))
    with pytest.raises(ValueError, match=f"ids up to {largest}, the embedding of config.json has {largest} rows: take"):
        load_tokenizer(folder)


def test_files_of_another_model(folder):
    put_template(folder, "chat_template.jinja", CHAT_TEMPLATE)
    image = load_tokenizer(folder).convert_tokens_to_ids("<|image_pad|>")
    model = {"patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2}
    (folder / "config.json").write_text(json.dumps({"image_token_id": image, "vision_config": model}))
    load_tokenizer(folder), ImageSettings.from_folder(folder, min_pixels=1, max_pixels=2)
    (folder / "config.json").write_text(json.dumps({"image_token_id": image + 1}))
    with pytest.raises(
        ValueError, match=f"image token is {image}, config.json says {image + 1}: tokenizer and model do"
    ):
        load_tokenizer(folder)
    for key in model:
        (folder / "config.json").write_text(json.dumps({"vision_config": model | {key: 14}}))
        with pytest.raises(ValueError, match=f"preprocessor_config.json: .*, config.json has {key} 14: take the file"):
            ImageSettings.from_folder(folder, min_pixels=1, max_pixels=2)


def test_names_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match="; download it: hf download Qwen/Qwen3-VL-2B-Instruct --local-dir Qwen/Qwen3-VL-2B-"
    ):
        model_folder("Qwen/Qwen3-VL-2B-Instruct")
    (tmp_path / "runs").mkdir()
    for name in ("runs/demo", "/nowhere/at-all", "./a/b"):
        with pytest.raises(ValueError, match="found no folder, expected one with a Hugging Face Qwen3-VL model$"):
            model_folder(name)


TOKENIZER_KEYS = [
    "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens", "bos_token", "eos_token", "pad_token",
    "unk_token", "chat_template", "tokenizer_class", "model_max_length", "split_special_tokens", "add_prefix_space",
    "add_bos_token", "errors", "clean_up_tokenization_spaces", "processor_class", "auto_map", "padding_side", "backend",
    "model_input_names", "truncation_side",
]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([*PICTURES, "image_mean", "image_std", "resample", "rescale_factor", "image_processor"]), VALUES)
def test_any_value_in_the_processor_s_file(tmp_path_factory, key, value):
    folder = tmp_path_factory.getbasetemp()
    name, content = "preprocessor_config.json", PICTURES | {key: value}
    if key == "image_processor":
        name, content = "processor_config.json", {key: value}
    (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES))
    (folder / "processor_config.json").write_text("{}")
    (folder / name).write_text(json.dumps(content))
    sentence(lambda: ImageSettings.from_folder(folder, min_pixels=1, max_pixels=2), name)


@settings(max_examples=40, deadline=None)
@given(VALUES)
def test_any_value_in_generation_and_template_files(tmp_path_factory, value):
    folder = tmp_path_factory.getbasetemp()
    for name, content in [
        ("generation_config.json", {"eos_token_id": value}),
        ("generation_config.json", value),
        ("chat_template.json", {"chat_template": value}),
        ("chat_template.json", value),
    ]:
        (folder / name).write_text(json.dumps(content))
        files = SideFiles.read(folder)
        sentence(files.end_ids if name.startswith("gen") else files.chat_templates, name)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(TOKENIZER_KEYS), VALUES)
def test_any_value_in_tokenizer_config(tmp_path_factory, key, value):
    folder = tmp_path_factory.getbasetemp() / "tokenizer"
    if not folder.is_dir():
        train_tokenizer(["Make the red circle blue"], vocabulary=300).save_pretrained(folder)
        shutil.copy(folder / "tokenizer_config.json", folder / "sound.json")
    content = json.loads((folder / "sound.json").read_text()) | {key: value}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))

    def read():
        encoder = ChatEncoder(load_tokenizer(folder), Prompt.load())
        assert encoder.answer_ids("red <|im_end|>")[-1] == encoder.end_token_id and len(encoder.prompt_ids(1, 1)) > 9
        assert encoder.end_token_id not in encoder.answer_ids("red <|im_end|>")[:-1]

    sentence(read, "token")


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_any_value_in_the_index_of_the_weights(tmp_path_factory, value):
    folder = tmp_path_factory.getbasetemp()
    for content in (value, {"weight_map": value}, {"weight_map": {"lm_head.weight": value}}):
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
        with pytest.raises(ValueError) as error:
            weight_index(folder)
        assert "model.safetensors.index.json" in str(error.value) and "\n" not in str(error.value)


def sentence(read, name):
    """`read` works, or raises one sentence that names the file."""
    try:
        read()
    except ValueError as error:
        assert name in str(error) and "\n" not in str(error)
