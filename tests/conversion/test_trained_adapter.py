"""Adapters of a run as a PEFT folder and in the weights: what `peft` and transformers compute with them."""

import dataclasses
import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from editcaption_mega.commands import megatron_to_hf
from editcaption_mega.conversion.convert import export_adapter, merge_adapter
from editcaption_mega.conversion.peft_folder import WEIGHTS_FILE
from editcaption_mega.conversion.trained_adapter import TrainedAdapter
from editcaption_mega.data.text.side_files import ADAPTER_CONFIG
from editcaption_mega.settings import AdapterSettings, SettingsError
from editcaption_mega.training import run_sft
from editcaption_mega.training.job_check import check_job
from tests.helpers import small_job
from tests.parity.matrix import LOGITS_BAR

FORMS = {
    "experts": AdapterSettings(rank=4, alpha=8.0, modules=["self_attn.*", "mlp.*", "visual.*"]),
    "shared": AdapterSettings(rank=4, experts="shared"),
    "down": AdapterSettings(rank=4, modules=["mlp.experts.down_proj"]),
    "dora": AdapterSettings(rank=4, alpha=8.0, dora=True, rslora=True, modules=["self_attn.*", "visual.*"]),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    small_job.write_folder(root / "model")
    small_job.write_folder(root / "other", small_job.SIZE)
    weights = load_file(root / "other/model.safetensors")
    save_file({name: weight * 1.01 for name, weight in weights.items()}, root / "other/model.safetensors")
    small_job.write_shards(root / "shards", count=8)
    for form, settings in FORMS.items():
        job = small_job.job(root / "model", root / "shards", root / form, steps=3)
        job.optimizer.learning_rate = 1e-2
        job.model.adapters = settings
        job.validate()
        run_sft(job)
        export_adapter(root / form, root / f"{form}-peft")
    return root


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


def logits(model) -> torch.Tensor:
    ids = torch.randint(0, 400, (1, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(input_ids=ids).logits


def transformers_model(folder):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def test_peft_and_the_merged_folder_have_the_same_logits(root, form):
    base = transformers_model(root / "model")
    before = logits(base)
    adapted = logits(PeftModel.from_pretrained(base, root / f"{form}-peft").eval())
    merge_adapter(root / form, root / f"{form}-merged", verify=True)
    merged = logits(transformers_model(root / f"{form}-merged"))
    assert (adapted - before).abs().max() > 100 * LOGITS_BAR, "the adapters must change something"
    assert (adapted - merged).abs().max() <= LOGITS_BAR


def test_a_peft_folder_is_added_to_the_weights_that_it_names(root, tmp_path, capsys):
    megatron_to_hf.main(["--checkpoint", str(root / "down-peft"), "--output", str(tmp_path / "merged")])
    assert f"the adapters are on {root / 'model'}, as {root / 'down-peft'} says" in capsys.readouterr().out
    merge_adapter(root / "down", tmp_path / "of_run")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("merged", "of_run")]
    assert files[0] == files[1]
    shutil.copytree(root / "down-peft", tmp_path / "peft")
    config = tmp_path / "peft" / ADAPTER_CONFIG
    config.write_text(config.read_text().replace(str(root / "model"), "Qwen/not-here"))
    with pytest.raises(SettingsError, match="names Qwen/not-here, which is no folder here: .*, or name it with --base"):
        merge_adapter(tmp_path / "peft", tmp_path / "unmade")
    assert not (tmp_path / "unmade").exists()


def test_what_is_read_is_written_again_bit_for_bit(root, form):
    folder = root / f"{form}-peft"
    export_adapter(folder, root / f"{form}-again", base=root / "model")
    assert (root / f"{form}-again" / WEIGHTS_FILE).read_bytes() == (folder / WEIGHTS_FILE).read_bytes()
    first, again = (json.loads((path / ADAPTER_CONFIG).read_text()) for path in (folder, root / f"{form}-again"))
    assert first == again


def test_a_peft_folder_starts_a_run(root, form):
    """As it is: before the first step the run has the folder's adapters, of one rank's checkpoint to the last bit."""
    settings = FORMS[form]
    opened = TrainedAdapter.open(root / form)
    for kind, start in (("run", root / form), ("peft", root / f"{form}-peft")):
        output = root / f"{form}-from-{kind}"
        job = small_job.job(root / "model", root / "shards", output, steps=1)
        job.optimizer.learning_rate, job.optimizer.weight_decay = 1e-30, 0.0
        job.model.adapters = AdapterSettings(**{**vars(settings), "start": str(start)})
        job.validate()
        run_sft(job)
        values = TrainedAdapter.open(output).values
        assert values.keys() == opened.values.keys()
        assert all(torch.equal(values[name], opened.values[name]) for name in values)


def test_other_weights_are_refused(root):
    words = r"experts.* was trained on the weights of .*model \(\w{12}\), and .*other has others"
    with pytest.raises(ValueError, match=words):
        merge_adapter(root / "experts", root / "wrong", base=root / "other")
    with pytest.raises(ValueError, match=words):
        export_adapter(root / "experts", root / "wrong", base=root / "other")
    assert not (root / "wrong").exists()


def test_a_run_does_not_start_with_adapters_of_other_weights(root):
    for start in ("experts", "experts-peft"):
        job = small_job.job(root / "other", root / "shards", root / "wrong", steps=1)
        job.model.adapters = AdapterSettings(**{**vars(FORMS["experts"]), "start": str(root / start)})
        words = rf"start=.*{start} were trained on the weights of .*model \(\w{{12}}\), and this job's are others"
        with pytest.raises(SettingsError, match=words):
            run_sft(job)
    assert not (root / "wrong").exists()


def test_a_base_that_is_gone_is_named_with_the_mend(root, monkeypatch):
    opened = TrainedAdapter.open(root / "experts")
    moved = dataclasses.replace(opened, base=str(root / "gone"))
    monkeypatch.setattr("editcaption_mega.conversion.convert._open_adapter", lambda *_: moved)
    with pytest.raises(SettingsError, match="are on .*gone, which is not there: name its folder with --base"):
        merge_adapter(root / "experts", root / "unmade")
    assert not (root / "unmade").exists()


def test_adapters_are_no_weights(root):
    """Where weights are asked for, a sentence says how to make some of them."""
    job = small_job.job(root / "model", root / "shards", root / "unmade", steps=1)
    job.model.checkpoint = str(root / "experts")
    with pytest.raises(ValueError, match="holds adapters and not the weights that they are on: add them first"):
        run_sft(job)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"peft_type": "LOHA"}, "is not of LoRA"),
        ({"lora_alpha": None}, "has lora_alpha=None: expected a number above 0"),
        ({"lora_alpha": True}, "has lora_alpha=True"),
        ({"lora_alpha": 0}, "has lora_alpha=0"),
        ({"lora_dropout": "x"}, "has lora_dropout='x': expected a number from 0 to below 1"),
        ({"use_dora": "false"}, "has use_dora='false': expected true or false"),
        ({"target_parameters": 7}, "has target_parameters=7: expected a list of names"),
        ({"alora_invocation_tokens": [1]}, r"has alora_invocation_tokens=\[1\], which cannot be used here"),
        ({"init_lora_weights": "pissa_niter_4"}, "has init_lora_weights='pissa_niter_4', which changes the weights"),
        ({"of_next_year": {"a": 1}}, "has of_next_year={'a': 1}, which is not known here"),
        ({"r": 0}, "has r=0: expected the rank, a whole number from 1 on"),
        ({"r": -4}, "has r=-4"),
        ({"r": True}, "has r=True"),
        ({"bias": "all"}, "has bias='all', which cannot be used here: expected 'none'"),
        ({"rank_pattern": {"q_proj": 2}}, "has rank_pattern="),
        ({"r": 8}, "rank=8 is more than the 4 that the smaller side of"),
        ({"r": 2}, "has a tensor of shape"),
    ],
)
def test_a_folder_of_another_form_is_refused(root, tmp_path, change, words):
    shutil.copytree(root / "experts-peft", tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / ADAPTER_CONFIG).read_text())
    (tmp_path / "adapter" / ADAPTER_CONFIG).write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=words):
        export_adapter(tmp_path / "adapter", tmp_path / "out", base=root / "model")


def changed_tensors(change):
    """A damage of a folder's tensors. change: of one name and tensor -> what takes their place."""

    def damage(path):
        items = [item for name, tensor in load_file(path).items() for item in change(name, tensor)]
        save_file(dict(items), path)

    return damage


def pickled(path):
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()


@pytest.mark.parametrize(
    "damage, words",
    [
        (
            changed_tensors(lambda n, t: [(n, t)] if "layers.0.self_attn.q_proj.lora_A" not in n else []),
            "lacks .*q_proj",
        ),
        (
            changed_tensors(lambda n, t: [(n, t)] if "layers.0.self_attn.q_proj.lora_B" not in n else []),
            "lacks .*q_proj",
        ),
        (
            changed_tensors(lambda n, t: [(n, t), (n + ".more", t.clone())]),
            "tensors that are no adapters of this model",
        ),
        (changed_tensors(lambda n, t: [(n, t.int())]), "lora_A.weight of torch.int32, expected finite numbers"),
        (changed_tensors(lambda n, t: [(n, t * float("nan"))]), "with NaN or infinity in it, expected finite numbers"),
        (lambda path: path.unlink(), f"has no {WEIGHTS_FILE} beside {ADAPTER_CONFIG}: copy it there"),
        (pickled, "adapter_model.bin can run code and is not read: save it as safetensors"),
    ],
)
def test_a_folder_with_other_tensors_is_refused(root, tmp_path, damage, words):
    shutil.copytree(root / "experts-peft", tmp_path / "adapter")
    damage(tmp_path / "adapter" / WEIGHTS_FILE)
    with pytest.raises(ValueError, match=words) as refused:
        export_adapter(tmp_path / "adapter", tmp_path / "out", base=root / "model")
    assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()


def test_what_peft_itself_saves_is_read(root, tmp_path):
    """With every field that its version writes."""
    model = PeftModel.from_pretrained(transformers_model(root / "model"), root / "dora-peft")
    model.save_pretrained(tmp_path / "saved")
    assert len(json.loads((tmp_path / "saved" / ADAPTER_CONFIG).read_text())) > 30
    export_adapter(tmp_path / "saved", tmp_path / "again", base=root / "model")
    first, again = (load_file(path / WEIGHTS_FILE) for path in (root / "dora-peft", tmp_path / "again"))
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"alpha": 4.0}, r"model.adapters.alpha=8.0, and this job has alpha=4.0: set these alike"),
        ({"rslora": True}, r"model.adapters.rslora=False, and this job has rslora=True"),
        ({"modules": ["self_attn.*", "visual.*"]}, "modules matches: it has .*, too; take the modules that it was"),
        ({"modules": ["self_attn.*", "mlp.*_proj", "visual.*", "mlp.gate"], "alpha": 8.0}, None),
    ],
)
def test_a_start_from_adapters_of_other_settings_is_refused(root, change, words):
    """Of a run as of a PEFT folder, by the job and its check, before anything is written."""
    for start in ("experts", "experts-peft"):
        job = small_job.job(root / "model", root / "shards", root / "wrong", steps=1)
        job.model.adapters = AdapterSettings(**{**vars(FORMS["experts"]), **change, "start": str(root / start)})
        if words is None:  # other words for the same modules
            check_job(job, 1)
            continue
        of_peft = "set these alike|does not match, first .*: let it match them"
        for call in (run_sft, lambda job: check_job(job, 1)):
            with pytest.raises(SettingsError, match=words if start == "experts" else of_peft):
                call(job)
        assert not (root / "wrong").exists()


def test_a_damaged_folder_is_refused(root, tmp_path):
    shutil.copytree(root / "experts-peft", tmp_path / "adapter")
    path = tmp_path / "adapter" / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=f"{WEIGHTS_FILE} is damaged or cannot be read"):
        export_adapter(tmp_path / "adapter", tmp_path / "out", base=root / "model")


def test_the_command_writes_either(root, tmp_path):
    arguments = ["--checkpoint", str(root / "dora"), "--output"]
    megatron_to_hf.main([*arguments, str(tmp_path / "adapter"), "--adapter"])
    megatron_to_hf.main([*arguments, str(tmp_path / "model")])
    assert (tmp_path / "adapter" / WEIGHTS_FILE).read_bytes() == (root / "dora-peft" / WEIGHTS_FILE).read_bytes()
    assert (tmp_path / "model/config.json").is_file()
