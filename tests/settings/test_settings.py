import dataclasses
import re

import pytest

from editcaption_mega.settings import (
    DataSettings,
    DPOSettings,
    EvaluationSettings,
    JobSettings,
    OptimizerSettings,
    load_settings,
    save_settings,
)
from editcaption_mega.settings.load import ELSEWHERE

GOOD = """
model: {folder: models/x}
data: {shards: [data/a, data/b]}
training: {output: runs/x, steps: 10, precision: fp32}
"""


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)
    return path


def test_reads_a_file_with_overrides(good):
    settings = load_settings(good, ["optimizer.learning_rate=2e-4", "parallel.tensor_model_parallel_size=2"])
    assert settings.optimizer.learning_rate == 2e-4
    assert settings.data.shards == ["data/a", "data/b"]
    assert settings.parallel.use_sequence_parallel is True  # follows the tensor-parallel size
    assert isinstance(settings, JobSettings)


def test_resolved_settings_read_back_the_same(good, tmp_path):
    settings = load_settings(good, ["parallel.pipeline_model_parallel_size=2"])
    save_settings(settings, tmp_path / "resolved.yaml")
    assert load_settings(tmp_path / "resolved.yaml") == settings


def test_nothing_is_frozen_by_default(good):
    assert set(load_settings(good).optimizer.multipliers().values()) == {1.0}


@pytest.mark.parametrize(
    "override, words",
    [
        ("training.stepz=3", ["training.stepz", "did you mean 'training.steps'"]),
        ("trainig.steps=3", ["trainig", "did you mean 'training'"]),
        ("training.steps=many", ["training.steps", "many"]),
        ("training.steps", ["key=value"]),
        ("training=3", ["'training' must be a section"]),
        ("training.precision=fp8", ["training.precision", "'fp8'", "bf16, fp32"]),
        ("data.workers=0", ["data.workers=0"]),
        ("data.workers=100000", ["data.workers=100000", "1024"]),
        ("data.worker_processes=3", ["data.worker_processes is 3, expected true or false"]),
        ("data.worker_processes=maybe", ["data.worker_processes", "maybe"]),
        ("training.stop_after=-1", ["training.stop_after=-1", "at least 0"]),
        ("watchdog.save_minutes=1e300", ["watchdog.save_minutes=1e+300", "0 .. 10080"]),
        ("watchdog.setup_minutes=-1", ["watchdog.setup_minutes=-1", "0 .. 10080"]),
        ("training.global_batch_size=0", ["training.global_batch_size=0", "at least 1"]),
        ("data.shards=[]", ["data.shards is empty", "editcaption shards"]),
        ("data.max_pixels=10", ["data.max_pixels=10", "data.min_pixels"]),
        ("parallel.context_parallel_size=2", ["context_parallel_size=2", "set it to 1"]),
        ("parallel.sequence_parallel=true", ["sequence_parallel=true", "tensor_model_parallel_size > 1"]),
        ("parallel.virtual_pipeline_model_parallel_size=2", ["pipeline_model_parallel_size > 1"]),
        ("parallel.layers_per_chunk=[3,5]", ["layers_per_chunk=[3, 5] has 2 counts, expected 1", "=1 x", "=1 chunks"]),
        ("parallel.layers_per_chunk=[]", ["has 0 counts, expected 1"]),
        ("parallel.layers_per_chunk=[many]", ["parallel.layers_per_chunk", "many"]),
        ("parallel.layers_per_chunk=3", ["parallel.layers_per_chunk is 3, expected a list of numbers"]),
        ("parallel.delayed_weight_gradients=true", ["delayed_weight_gradients is True, expected a list of numbers"]),
        ("parallel.delayed_weight_gradients=[0]", ["is for pipelines without virtual stages"]),
        ("optimizer.learning_rate=0", ["optimizer.learning_rate=0", "above 0"]),
        ("optimizer.beta1=1.0", ["optimizer.beta1=1.0"]),
        ("optimizer.min_learning_rate=1", ["min_learning_rate=1", "learning_rate"]),
        (
            "model.recompute_modules=moe_act",
            ["recompute_modules=['moe_act']", "model.recompute=selective only", "is none"],
        ),
        ("model.recompute_num_layers=2", ["recompute_num_layers=2", "model.recompute=full only"]),
        ("model.recompute_num_layers=0", ["recompute_num_layers=0", "at least 1"]),
        ("model.recompute_method=some", ["model.recompute_method", "uniform, block"]),
        ("model.flash_attention=4", ["model.flash_attention=4 is not one of 2, 3"]),
        ("model.recompute=some", ["model.recompute", "none, selective, full"]),
        ("checkpoint.every=0", ["checkpoint.every=0"]),
        ("checkpoint.local_folder=copies/here", ["checkpoint.local_folder=copies/here", "/local/checkpoints"]),
        ("model.folder=", ["model.folder is empty", "Qwen3-VL folder"]),
        ("data.shards=", ["data.shards is empty"]),
        ("data.weights=[0.7]", ["data.weights has 1 entries and data.shards 2", "[0.7,0.3]"]),
        ("data.weights=[1,0]", ["data.weights=[1.0, 0.0]", "above 0", "leave a folder out"]),
        ("data.weights=[1,-2]", ["above 0"]),
        ("data.weights=[0.123457,1]", ["every 1,123,457 samples", "100,000", "four digits"]),
        ("data.weights=[many,few]", ["data.weights", "many"]),
        ("data.id_prefixes=[a-]", ["data.id_prefixes has 1 entries", "[a-,b-]"]),
        ("data.id_prefixes=[a/,b]", ["data.id_prefixes has 'a/'", "letters, digits"]),
        ("data.max_samples=-1", ["data.max_samples=-1 must be at least 0"]),
        ("learning_rate=3", ["did you mean 'optimizer.learning_rate'"]),
        ("optimizer.lr=3", ["did you mean 'optimizer.learning_rate'"]),
        ("optimizer.max_grad_norm=1", ["did you mean 'optimizer.clip_grad'"]),
        ("model.lora_rank=8", ["did you mean 'model.adapters.rank'?"]),
        ("parallel.tp=2", ["did you mean 'parallel.tensor_model_parallel_size'"]),
        ("training.lr_scheduler_type=linear", ["did you mean 'optimizer.schedule' (constant, linear, cosine or wsd)"]),
        ("optimizer.scheduler=linear", ["did you mean 'optimizer.schedule'"]),
        ("optimizer.lr_decay_style=WSD", ["did you mean 'optimizer.schedule'"]),
        ("training.schedule=linear", ["did you mean 'optimizer.schedule'"]),
        ("training.warmup_ratio=0.1", ["did you mean 'optimizer.warmup_ratio'"]),
        ("training.max_samples=5", ["did you mean 'data.max_samples'"]),
        ("data.interleave_probs=[1,1]", ["did you mean 'data.weights'"]),
        ("optimizer.schedule=wavy", ["optimizer.schedule is 'wavy', expected one of constant, linear, cosine, wsd"]),
        ("optimizer.warmup_ratio=1.5", ["optimizer.warmup_ratio=1.5 must lie in 0 .. 1"]),
        ("optimizer.decay_steps=3", ["decay_steps=3 has a meaning with optimizer.schedule=wsd only, which is cosine"]),
        ("optimizer.decay_form=cosine", ["decay_form=cosine has a meaning with optimizer.schedule=wsd only"]),
        ("optimizer.schedule=wsd", ["neither of optimizer.decay_steps and optimizer.decay_ratio", "set one of them"]),
        ("model.name=Qwen/Qwen3-VL-2B-Instruct", ["did you mean 'model.folder'"]),
        ("training.micro_batch_size=1", ["there is none", "a row is a micro-batch", "training.global_batch_size"]),
        ("training.gradient_accumulation_steps=2", ["there is none", "accumulated"]),
        ("training.seed=${training.nope}", ["training.seed", "nope"]),
    ],
)
def test_bad_settings_are_named(good, override, words):
    with pytest.raises(ValueError) as error:
        load_settings(good, [override])
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize(
    "counts, more, words",
    [
        ("[2,0,1,1]", [], "only the first, .* and the last, .* can do with 0"),
        ("[2,-1,1,2]", [], "each chunk needs a layer"),
        ("[1,1,1]", [], "has 3 counts, expected 4"),
        ("[1,1,1,1]", ["parallel.account_for_loss_in_pipeline_split=true"], "account_for_loss.* set it to false"),
    ],
)
def test_bad_layers_per_chunk(good, counts, more, words):
    sizes = ["parallel.pipeline_model_parallel_size=2", "parallel.virtual_pipeline_model_parallel_size=2"]
    with pytest.raises(ValueError, match=words):
        load_settings(good, [*sizes, f"parallel.layers_per_chunk={counts}", *more])
    assert load_settings(good, [*sizes, "parallel.layers_per_chunk=[0,2,2,0]"]).parallel.layers_per_chunk[0] == 0


@pytest.mark.parametrize(
    "modules, words",
    [
        ("[]", "recompute_modules is empty"),
        ("[mla_up_proj]", "'mla_up_proj', expected one of core_attn, layernorm, mlp, moe, moe_act"),
        ("[moe,moe_act]", "has moe, which includes moe_act"),
    ],
)
def test_bad_recompute_modules(good, modules, words):
    with pytest.raises(ValueError, match=words):
        load_settings(good, ["model.recompute=selective", f"model.recompute_modules={modules}"])


@pytest.mark.parametrize(
    "more, words",
    [
        (["decay_steps=2", "decay_ratio=0.1"], "both of optimizer.decay_steps and optimizer.decay_ratio"),
        (["decay_steps=0"], "decay_steps=0 must be at least 1"),
        (["decay_ratio=0"], "decay_ratio=0.0 must be above 0 and at most 1"),
        (["decay_ratio=1.5"], "decay_ratio=1.5 must be above 0 and at most 1"),
        (["decay_ratio=0.2", "decay_form=steep"], "optimizer.decay_form is 'steep', expected one of linear, cosine"),
        (["decay_ratio=0.2", "warmup_steps=3", "warmup_ratio=0.1"], "both say how long warm-up is: leave one"),
        # Of the 10 steps of this job.
        (
            ["decay_steps=8", "warmup_steps=3"],
            "warm-up of 3 and a decay of 8 steps .* are more than the 10 steps of the run",
        ),
        (["decay_ratio=0.95", "warmup_ratio=0.05"], "warm-up of 1 and a decay of 10 steps"),
    ],
)
def test_bad_schedules_with_a_decay_at_the_end(good, more, words):
    with pytest.raises(ValueError, match=words):
        load_settings(good, ["optimizer.schedule=wsd", *(f"optimizer.{part}" for part in more)])
    assert load_settings(good, ["optimizer.schedule=wsd", "optimizer.decay_steps=7", "optimizer.warmup_steps=3"])


@pytest.mark.parametrize("ratio, total, steps", [(0.1, 10, 1), (0.07, 100, 7), (0.03, 10, 1), (0.5, 3, 2), (1.0, 9, 9)])
def test_shares_of_all_steps_are_rounded_up(ratio, total, steps):
    settings = OptimizerSettings(schedule="wsd", warmup_ratio=ratio, decay_ratio=ratio)
    assert settings.warmup_of(total) == settings.decay_of(total) == steps


def test_a_file_of_whole_folders_is_no_reference_of_a_part(good):
    with pytest.raises(ValueError, match=r"reference.file=r.jsonl is of whole folders.* leave reference.file empty"):
        load_settings(good, ["reference.file=r.jsonl", "data.max_samples=5"], DPOSettings)


def test_everything_frozen_is_refused(good):
    with pytest.raises(ValueError, match="nothing would be trained"):
        load_settings(good, [f"optimizer.{name}=0" for name in ("vision", "merger", "language", "router")])


@pytest.mark.parametrize(
    "weights, shares",
    [([], []), ([0.7, 0.3], [7, 3]), ([1.0, 1.0], [1, 1]), ([600.0, 400.0], [3, 2]), ([1e-3, 1], [1, 1000])],
)
def test_weights_are_taken_as_they_are_written(weights, shares):
    """0.7 is 7 / 10 here, whatever its double is."""
    assert DataSettings(shards=["a", "b"], weights=weights).shares == shares


def test_one_folder_of_shards_needs_no_brackets(good):
    assert load_settings(good, ["data.shards=data/c"]).data.shards == ["data/c"]


@pytest.mark.parametrize(
    "text, word",
    [
        ("model: [", "not valid YAML: line 2, column 1: did not find"),
        ("model:\n  folder: a\n    backend: b\n", "not valid YAML: line 3, column 12: mapping values"),
        ("model:\n\tfolder: a\n", "not valid YAML: line 2, column 1: found character"),
        ("model: {}\nmodel: {}\n", "not valid YAML: line 2, column 1: found duplicate key model"),
        ("model: {folder: ${a}\n", "not valid YAML"),
        ("- a\n- b", "holds no settings"),
    ],
)
def test_broken_files(tmp_path, text, word):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=word):
        load_settings(path)


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_settings(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "sizes, world, data",
    [((2, 1, 1, None), 4, 2), ((2, 2, 1, None), 4, 1), ((1, 1, 2, None), 4, 4), ((2, 1, 2, 1), 4, 2)],
)
def test_data_parallel_size(sizes, world, data):
    from editcaption_mega.settings import ParallelSettings

    tensor, pipeline, expert, expert_tensor = sizes
    settings = ParallelSettings(tensor, pipeline, None, expert, expert_tensor)
    assert settings.data_parallel_size(world) == data


def test_layout_that_does_not_divide_the_world():
    from editcaption_mega.settings import ParallelSettings

    with pytest.raises(ValueError, match="3 ranks are not a multiple of tensor x pipeline = 2: .*--mode search"):
        ParallelSettings(tensor_model_parallel_size=2).data_parallel_size(3)
    with pytest.raises(ValueError, match="expert tensor x expert x pipeline = 4"):
        ParallelSettings(tensor_model_parallel_size=2, expert_model_parallel_size=2).data_parallel_size(2)


@pytest.mark.parametrize("kind", [JobSettings, DPOSettings, EvaluationSettings])
@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_no_number_of_any_settings_is_endless(kind, value):
    """Every float of every section, so a new one is held to it too."""
    names = list(floats_of(kind))
    assert len(names) >= 5
    for name in names:
        with pytest.raises(ValueError, match=rf"{re.escape(name)}=-?(nan|inf) is no number"):
            load_settings(None, [f"{name}={value}"], kind)


def floats_of(kind, prefix=""):
    for item in dataclasses.fields(kind):
        if dataclasses.is_dataclass(item.type):
            yield from floats_of(item.type, f"{prefix}{item.name}.")
        elif item.type is float:
            yield prefix + item.name


def test_flash_attention_3_is_not_for_a_backend_that_chooses_itself(good):
    with pytest.raises(ValueError, match="model.flash_attention=3 has a meaning with model.backend=torch only"):
        load_settings(good, ["model.flash_attention=3", "model.backend=transformer_engine"])


@pytest.mark.parametrize("counts", ["[0]", "[1,0]", "[0,-1]", "[0,1,1]"])
def test_delayed_weight_gradients_have_a_count_for_each_stage(good, counts):
    pipeline = "parallel.pipeline_model_parallel_size=2"
    assert load_settings(good, [pipeline, "parallel.delayed_weight_gradients=[0,1]"])
    with pytest.raises(ValueError, match="expected 2 counts of 0 or more.*and 0 for the first"):
        load_settings(good, [pipeline, f"parallel.delayed_weight_gradients={counts}"])


@pytest.mark.parametrize("other", ["model.fused_weight_gradients=false", "model.backend=transformer_engine"])
def test_delayed_weight_gradients_need_products_that_add_up(good, other):
    settings = ["parallel.pipeline_model_parallel_size=2", "parallel.delayed_weight_gradients=[0,1]", other]
    with pytest.raises(ValueError, match="needs model.backend=torch and model.fused_weight_gradients=true"):
        load_settings(good, settings)


def test_every_setting_that_another_programs_name_leads_to_exists():
    for name, mend in ELSEWHERE.items():
        sections = "training|data|optimizer|checkpoint|parallel|model|wandb|mlflow|evaluation"
        named = re.findall(rf"\b(?:{sections})\.[a-z_]+", mend)
        assert named or name in ("data_parallel_size", "api_key"), name
        for setting in named:
            section, field = setting.split(".")
            assert hasattr(getattr(JobSettings(), section), field), (name, setting)
