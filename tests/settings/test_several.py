"""Files of several runs: each has the job's settings, with its own in their place, and what is wrong names the run."""

import pytest
import yaml

from editcaption_mega.settings import DPOSettings, JobSettings, SettingsError, earlier_run, load_runs, load_settings

JOB = {
    "model": {"folder": "models/base", "adapters": {"rank": 4}},
    "data": {"shards": ["data/sft"]},
    "training": {"output": "runs/lora"},
}


@pytest.fixture
def load(tmp_path):
    def from_texts(runs, overrides=(), kind=JobSettings, job=JOB):
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
        (tmp_path / "runs.yaml").write_text(runs if isinstance(runs, str) else yaml.safe_dump(runs, sort_keys=False))
        return load_runs(tmp_path / "runs.yaml", tmp_path / "job.yaml", list(overrides), kind)

    return from_texts


def test_each_run_has_the_jobs_settings_and_its_own(load, tmp_path):
    runs = {
        "small": None,
        "large-1.5": {"model.adapters.rank": 64, "optimizer": {"learning_rate": 1e-4}, "data.shards": ["a", "b"]},
    }
    small, large = load(runs, ["optimizer.learning_rate=3e-4", "training.steps=7"]).values()
    assert (small.model.adapters.rank, small.optimizer.learning_rate, small.training.steps) == (4, 3e-4, 7)
    assert (large.model.adapters.rank, large.optimizer.learning_rate, large.training.steps) == (64, 1e-4, 7)
    assert large.data.shards == ["a", "b"]
    assert [run.training.output for run in (small, large)] == ["runs/lora/small", "runs/lora/large-1.5"]
    assert load_settings(tmp_path / "job.yaml").training.output == "runs/lora"


def test_preference_runs_differ_in_their_objective(load):
    runs = load({"ipo": {"preference.loss": "ipo"}, "soft": {"preference.beta": 0.01}}, kind=DPOSettings)
    assert [(run.preference.loss, run.preference.beta) for run in runs.values()] == [
        ("ipo", DPOSettings().preference.beta), ("sigmoid", 0.01),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        ("", r"runs\.yaml holds no runs: expected a name with settings for each, such as `small"),
        ("[1, 2]", r"runs\.yaml holds no runs"),
        ("a: [1", r"runs\.yaml is not valid YAML: line 2, column 1"),
        ("a: 3", r"run a is 3, expected settings and their values"),
        ("8: {}", r"8 cannot be the name of a run, which is a folder: .*in quotes where YAML would read a number"),
        ("../up: {}", r"'\.\./up' cannot be the name of a run"),
        ("a: {lr: 1}", r"run a: .*unknown setting 'lr': did you mean 'optimizer\.learning_rate'"),
        ("a: {model.adapters.rank: 0}", r"run a: it has no adapters, and weights that are trained cannot be shared"),
        ("a: {training.output: x}", r"run a: training\.output is the job's, .*leave it out"),
        ("a: {training: {output: x}}", r"run a: training\.output is the job's"),
        ("a: {training.steps: -1}", r"run a: .*training\.steps"),
        (
            "model: {folder: m}\ndata: {shards: [s]}",
            r"holds the settings of a job \(model, data\), and no runs: expected",
        ),
        ("a: {}\nA: {}", r"runs a and A have names that are one folder where capitals make no difference"),
        (
            "a: {optimizer.learning_rate: 1e-3, optimizer: {learning_rate: 1e-4}}",
            r"run a: optimizer\.learning_rate stands there twice, alone and in its section: keep one",
        ),
        (
            "a: {}\nb: {model.adapters.start: runs/lora/a, model.adapters.rank: 8}",
            r"run b: model\.adapters\.start=\S+ is run a, which has model\.adapters\.rank=4, and this one has rank=8",
        ),
        (
            "a: {}\nb: {model.recompute: full}",
            r"run b: model\.recompute='full', but run a has 'none', and the runs share a model .*of its own",
        ),
        ("a: {}\nb: {parallel.tensor_model_parallel_size: 2}", r"run b: parallel\.tensor_model_parallel_size=2, but"),
        ("a: {}\nb: {training.precision: fp32}", r"run b: training\.precision='fp32', but run a has 'bf16'"),
        ("a: {}\nb: {model.folder: models/other}", r"run b: model\.folder='models/other', but run a has 'models/base'"),
    ],
)
def test_what_cannot_be_a_run(load, runs, sentence):
    with pytest.raises(SettingsError, match=sentence):
        load(runs)


def test_a_name_stands_once(load):
    with pytest.raises(SettingsError, match=r"runs\.yaml is not valid YAML: .*duplicate key a"):
        load("a: {}\nb: {}\na: {model.adapters.rank: 8}")


def test_a_run_starts_from_the_adapters_of_one_before_it(load):
    runs = load({"a": None, "b": {"model.adapters.start": "./runs/lora/a", "model.adapters.dropout": 0.1}, "c": None})
    assert [earlier_run(runs, name) for name in runs] == ["", "a", ""]
    runs = load({"a": {"model.adapters.start": "runs/lora/b"}, "b": {"model.adapters.start": "runs/lora/b"}})
    assert [earlier_run(runs, name) for name in runs] == ["", ""]


def test_files_and_folders(load, tmp_path):
    with pytest.raises(SettingsError, match=r"the file of runs has no name"):
        load_runs("", None, [], JobSettings)
    with pytest.raises(SettingsError, match=r"none\.yaml does not exist: name a YAML file of runs"):
        load_runs(tmp_path / "none.yaml", None, [], JobSettings)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").touch()
    job = JOB | {"training": {"output": str(tmp_path / "run")}}
    with pytest.raises(SettingsError, match=r"run a: training\.output=.*run is the folder of one run: name another"):
        load({"a": {}}, job=job)
