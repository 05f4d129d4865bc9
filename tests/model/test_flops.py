"""Operations by formula are those that the planner counts of an executed step."""

import json

import pytest
import torch

from editcaption_mega.model import Architecture
from editcaption_mega.model.flops import language_flops, sample_flops, vision_flops
from editcaption_mega.settings import ParallelSettings
from tests.helpers import small_job, tiny
from tests.helpers.fake_ranks import on_fake_ranks
from tests.helpers.small_pairs import ANSWERS, opened, reader_of, write_pairs


def both(experts: bool, pairs: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    from editcaption_mega import platform
    from editcaption_mega.model import build_model
    from editcaption_mega.planning.dry_run import fakes
    from editcaption_mega.planning.dry_run.rank_step import _naming_modules
    from editcaption_mega.planning.dry_run.recorder import StepRecorder
    from editcaption_mega.settings import ModelSettings

    architecture = Architecture.from_config(tiny.hf_model(experts=experts, layers=4).config.to_dict())
    samples = tiny.pairs(3) if pairs else tiny.samples(3)
    batch = tiny.row(samples, sum(sample.num_tokens for sample in samples))
    recorder = StepRecorder()
    fakes.answer_for_values(recorder, 1.0)
    with recorder, torch.no_grad():
        (model,) = build_model(architecture, ModelSettings(folder="-"), ParallelSettings(), "bf16")
        moved = batch.to(platform.device())
        recorder.start()
        with _naming_modules([model], recorder):
            model(moved)
    flops = sum(getattr(step, "flops", 0) for phase in recorder.phases for step in phase.steps)
    vision = sum(phase.vision_flops for phase in recorder.phases)
    counted = (language_flops(architecture, batch), vision_flops(architecture.vision, batch.images))
    return (flops - vision, vision), counted


@pytest.mark.parametrize(("experts", "pairs"), [(False, False), (True, False), (False, True)])
def test_the_formula_counts_what_is_executed(experts, pairs):
    ((executed, counted),) = on_fake_ranks(both, ParallelSettings(), 1, experts, pairs)
    assert counted == pytest.approx(executed, rel=1e-6) and min(counted) > 0


@pytest.mark.parametrize(("answers", "shared"), [("instruction", True), ("preference", True), ("preference", False)])
def test_those_of_samples_are_those_of_their_batch(tmp_path, answers, shared):
    small_job.write_folder(tmp_path / "model", small_job.SIZE)
    folder = write_pairs(tmp_path / "pairs", ANSWERS)
    dataset = opened(tmp_path / "model", folder, answers=answers, shared_prompt=shared)
    reader = reader_of(dataset, 4096)
    batch = reader.read(range(6), 4096)
    architecture = Architecture.from_config(json.loads((tmp_path / "model/config.json").read_text()))
    flops = sample_flops(
        architecture, reader.lengths.num_tokens, reader.lengths.answers, dataset.patches(range(6)), shared_prompt=shared
    )
    whole = language_flops(architecture, batch) + vision_flops(architecture.vision, batch.images)
    assert len(flops) == 6 and flops.sum() == pytest.approx(whole, rel=1e-12)
