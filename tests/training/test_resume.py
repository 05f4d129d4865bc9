"""Which checkpoint a run goes on from, and what it does with damaged ones and with leftovers."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from editcaption_mega.conversion import DamagedCheckpointError, find_checkpoint
from editcaption_mega.conversion.checkpoint_folders import checkpoint_folder, checkpoints
from editcaption_mega.training.identity import check_identity
from editcaption_mega.training.resume import foreign_entries, read_state, resume_point, tidy
from tests.helpers import small_store
from tests.helpers.ranks import on_ranks


@pytest.fixture
def run(tmp_path):
    """A run folder with three checkpoints."""
    for step in (3, 6, 9):
        small_store.write(checkpoint_folder(tmp_path / "run", step), step)
    return tmp_path / "run"


def resume(run, *, verify=True, fallback=False):
    return resume_point(run, lambda folder, state: None, verify=verify, fallback=fallback)


def resume_on_rank(rank, run, fallback):
    return resume(run, fallback=fallback)[0].name


def damage(run, step, name="rank00000-0000.safetensors"):
    path = checkpoint_folder(run, step) / name
    small_store.flip(path, 8 * path.stat().st_size - 9)
    return path


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_the_newest_sound_one_is_taken(run):
    folder, state = resume(run)
    assert folder.name == "step_00000009" and state["samples"] == 72
    assert resume(run / "empty") is None


def test_a_damaged_one_is_refused_with_the_file_and_the_mend(run):
    path = damage(run, 9)
    with pytest.raises(DamagedCheckpointError) as error:
        resume(run)
    text = str(error.value)
    assert str(path) in text and "checkpoint.fallback=true to go on from step_00000006" in text and "\n" not in text
    assert resume(run, verify=False)[0].name == "step_00000009"
    assert names(run) == ["step_00000003", "step_00000006", "step_00000009"]


@pytest.mark.parametrize("name", ["state.json", "tensors.json", "hf/config.json", "rank00000-0002.safetensors"])
def test_fallback_takes_the_one_before_and_keeps_the_damaged_one(run, capsys, name):
    path = damage(run, 9, name)
    folder, state = resume(run, fallback=True)
    assert folder.name == "step_00000006" and state["step"] == 6
    told = capsys.readouterr().out
    assert str(path) in told and "kept as step_00000009.damaged; going on from step_00000006" in told
    assert names(run) == ["step_00000003", "step_00000006", "step_00000009.damaged"]
    damage(run, 6, name)
    small_store.write(checkpoint_folder(run, 9), 9)
    damage(run, 9, name)
    assert resume(run, fallback=True)[0].name == "step_00000003"
    assert names(run) == ["step_00000003", "step_00000006.damaged", "step_00000009.damaged", "step_00000009.damaged-2"]


def test_without_any_sound_one_nothing_is_renamed(run):
    for step in (3, 6, 9):
        damage(run, step)
    with pytest.raises(DamagedCheckpointError, match="step_00000009.*No checkpoint before it is sound either"):
        resume(run, fallback=True)
    assert names(run) == ["step_00000003", "step_00000006", "step_00000009"]


def test_a_missing_file_is_damage(run):
    (checkpoint_folder(run, 9) / "rank00000-0001.safetensors").unlink()
    with pytest.raises(DamagedCheckpointError, match="rank00000-0001.safetensors is missing"):
        resume(run)
    assert resume(run, fallback=True)[0].name == "step_00000006"


def test_two_ranks_fall_back_together(run, tmp_path, capfd):
    damage(run, 9)
    assert on_ranks(resume_on_rank, tmp_path, run, True) == ["step_00000006"] * 2
    assert capfd.readouterr().out.count("going on from") == 1
    damage(run, 6)
    first, second = on_ranks(resume_on_rank, tmp_path, run, False)
    assert type(first) is type(second) is DamagedCheckpointError and str(first) == str(second)


def test_another_job_is_no_damage(run):
    def other(folder, state):
        raise ValueError(f"{folder} was trained with seed={state['seed']}")

    with pytest.raises(ValueError, match="seed=1234") as error:
        resume_point(run, other, verify=True, fallback=True)
    assert type(error.value) is ValueError and len(names(run)) == 3


def test_a_renamed_folder_or_one_without_state_cannot_be_resumed(run):
    checkpoint_folder(run, 3).rename(checkpoint_folder(run, 12))
    with pytest.raises(DamagedCheckpointError, match="is of step 3: its folder should be named step_00000003"):
        resume(run)
    folder = checkpoint_folder(run, 9)
    small_store.rewrite(folder, lambda values: values["files"].pop("state.json") and None)
    (folder / "state.json").unlink()
    with pytest.raises(ValueError, match="holds weights only"):
        read_state(folder)


def test_partial_and_half_removed_folders_are_never_taken(run):
    """A folder between its manifest and its name, one being removed, one without a manifest, a stranger's."""
    newest = checkpoint_folder(run, 9)
    for name in (
        "step_00000012.partial",
        "step_00000011.removed.partial",
        "step_00000010.damaged",
        "step_12",
        "step_x",
    ):
        newest.with_name(name).mkdir()
        (newest.with_name(name) / "tensors.json").write_bytes((newest / "tensors.json").read_bytes())
    newest.with_name("step_00000013").mkdir()
    assert find_checkpoint(run) == newest and checkpoints(run)[-1] == newest
    lines = tidy(run)
    assert len(lines) == 2 and all("\n" not in line for line in lines)
    assert "checkpoints/step_00000012.partial" in lines[0] and "step_00000013 has no tensors.json" in lines[1]
    left = ["step_00000010.damaged", "step_00000013.damaged", "step_12", "step_x"]
    assert names(run) == sorted([*left, "step_00000003", "step_00000006", "step_00000009"])
    assert tidy(run) == []


def test_steps_of_nine_digits_are_newer_than_those_of_eight(run):
    small_store.write(checkpoint_folder(run, 100_000_000), 100_000_000)
    assert find_checkpoint(run).name == "step_100000000"


def test_leftovers_are_ours_and_go(tmp_path):
    """They make a folder neither unusable nor anyone else's; what is not ours is never touched."""
    for name in ("metrics.tmp", "config.yaml.77-ab.partial", "metrics.jsonl.1-0f.partial", "reference.jsonl.partial"):
        (tmp_path / name).write_text("half")
    assert foreign_entries(tmp_path, ("reference.jsonl",)) == []
    assert len(tidy(tmp_path)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["reference.jsonl.partial"]  # a pass that goes on
    (tmp_path / "film.partial").write_text("someone's")
    assert foreign_entries(tmp_path, ("reference.jsonl",)) == ["film.partial"]


STATE = {"step": 3, "updates": 3, "samples": 24, "seed": 1234, "identity": {}, "settings": {}, "preference": {}}
ANY_VALUE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.just([]), st.just({})
)


@given(field=st.sampled_from([*sorted(STATE), None]), value=ANY_VALUE)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_state_of_any_other_type_is_one_sentence(tmp_path, field, value):
    folder = checkpoint_folder(tmp_path, 3)
    if not folder.exists():
        small_store.write(folder, 3)
        small_store.without_checksums(folder)
    (folder / "state.json").write_text(json.dumps(value if field is None else {**STATE, field: value}))
    try:
        state = read_state(folder)
        check_identity(folder, state, {"objective": "sft"})
        assert all(type(state[name]) is int for name in ("step", "updates", "samples")) and state["step"] == 3
    except DamagedCheckpointError as error:
        assert str(folder / "state.json") in str(error) and "\n" not in str(error)
