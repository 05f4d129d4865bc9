"""What vLLM is told of a PEFT folder, and which adapters it is not given."""

import json

import pytest

from editcaption_mega.data.text.side_files import ADAPTER_CONFIG
from editcaption_mega.inference.serving import programs
from editcaption_mega.inference.serving.programs import command_line, program_of
from editcaption_mega.inference.serving.vllm_adapters import VllmAdapter
from editcaption_mega.settings import AdapterSettings, ServerSettings, SettingsError
from tests.helpers import small_job
from tests.helpers.random_adapter import write_random_adapter

FORMS = {
    "attention": AdapterSettings(rank=9, modules=["self_attn.*"]),
    "experts": AdapterSettings(rank=4, modules=["mlp.experts.*"]),
    "router": AdapterSettings(rank=4, modules=["mlp.gate"]),
    "vision": AdapterSettings(rank=4, modules=["visual.*"]),
    "dora": AdapterSettings(rank=4, dora=True, modules=["self_attn.*"]),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    small_job.write_folder(root / "model")
    for form, settings in FORMS.items():
        write_random_adapter(root / form, root / "model", settings)
    return root


def test_weights_are_served_with_the_adapters_under_the_name_of_their_folder(root, monkeypatch):
    monkeypatch.setattr(programs, "executable", lambda name: name)
    model = str(root / "attention")
    program = program_of(ServerSettings(program="vllm", model=model, arguments="--max-model-len 4096"))
    line = command_line(program, model, 8123)
    assert line[:3] == ["vllm", "serve", str(root / "model")] and "4096" in line
    at = line.index("--lora-modules")
    assert json.loads(line[at + 1]) == {"name": model, "path": model}
    assert line[at - 3 : at] == ["--enable-lora", "--max-lora-rank", "16"]
    assert "--enable-lora" not in program_of(ServerSettings(program="vllm", model=str(root / "model"))).command


def test_a_program_that_serves_none_is_refused(root, monkeypatch):
    monkeypatch.setattr(programs, "executable", lambda name: name)
    for program in ("sglang", "transformers"):
        with pytest.raises(SettingsError, match=f"is a PEFT folder, which server.program={program} does not serve"):
            program_of(ServerSettings(program=program, model=str(root / "attention")))
    own = ServerSettings(program="custom", model=str(root / "vision"), command="serve {model} {port}")
    assert command_line(program_of(own), own.model, 1) == ["serve", own.model, "1"]


@pytest.mark.parametrize(
    "form, words",
    [("experts", "adapters on experts, which vLLM does not compute: put them into the weights"),
     ("router", "adapters on routers"), ("vision", "adapters on the vision tower"), ("dora", "computes no DoRA")],
)  # fmt: skip
def test_adapters_that_vllm_would_not_compute_are_refused(root, form, words):
    with pytest.raises(ValueError, match=words):
        VllmAdapter.of(root / form)
    assert VllmAdapter.of(root / "model") is None


def test_a_rank_above_all_is_refused(root, tmp_path):
    write_random_adapter(tmp_path / "adapter", root / "model", FORMS["attention"])
    path = tmp_path / "adapter" / ADAPTER_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 513}))
    with pytest.raises(ValueError, match="rank 1 to 512, found 513"):
        VllmAdapter.of(tmp_path / "adapter")
