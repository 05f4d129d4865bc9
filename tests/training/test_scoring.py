"""Log-probs as scores: other views of the pictures, texts that share a prompt, parts, and their columns."""

import dataclasses
import json
import shutil

import pytest
from PIL import ImageOps
from safetensors.torch import load_file, save_file

from editcaption_mega.curation.columns import ColumnFile, ColumnWork, joined
from editcaption_mega.curation.scores.best_of import WeightedColumn, best_of
from editcaption_mega.curation.scores.directions import opposite
from editcaption_mega.curation.scores.likelihoods import log_prob_scores, write_log_prob_scores
from editcaption_mega.curation.scores.scored_texts import CandidateTexts, write_alternatives
from editcaption_mega.data import open_shards
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from editcaption_mega.evaluation.generate import Part
from editcaption_mega.settings import SettingsError
from editcaption_mega.training.log_probs import log_probs_of_shards
from tests.helpers import small_job

WORLD = WorldSettings(edit_types=["camera_pan", "camera_zoom", "mirror", "recolour"])
COUNT = 6


def write(folder, look):
    """Pairs whose pictures are what `look` makes of (source, target)."""
    with ShardWriter(folder) as writer:
        for index in range(COUNT):
            made = render_pair(WORLD, 7, index)
            source, target = look(made.source, made.target)
            writer.add(made.pair, encode_png(source), "png", encode_png(target), "png")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("scoring")
    small_job.write_folder(root / "model")
    write(root / "given", lambda source, target: (source, target))
    write(root / "swapped", lambda source, target: (target, source))
    write(root / "mirrored", lambda source, target: (ImageOps.mirror(source), ImageOps.mirror(target)))
    return root


def scored(base, output, shards="given", model=None, **options):
    settings = small_job.job(base / "model", base / shards, base / "-")
    settings.model.checkpoint, settings.model.folder = str(model or base / "model"), "-"
    log_probs_of_shards(settings, output, with_tokens=options.pop("with_tokens", False), **options)
    head, *rows = [json.loads(line) for line in output.read_text().splitlines()]
    return head["fingerprint"], rows


def test_numbers_that_are_none_are_not_written(base, tmp_path):
    shutil.copytree(base / "model", tmp_path / "model")
    weights = load_file(tmp_path / "model/model.safetensors")
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    save_file(weights | {name: weights[name] * float("nan")}, tmp_path / "model/model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="has a log-prob that is no finite number: the weights hold NaN"):
        scored(base, tmp_path / "scores.jsonl", model=tmp_path / "model")
    assert not (tmp_path / "scores.jsonl").exists()


@pytest.mark.parametrize("view", ["swapped", "mirrored"])
def test_a_view_gives_the_numbers_of_pictures_that_are_so(base, tmp_path, view):
    head, rows = scored(base, tmp_path / "view.jsonl", view=view)
    other, expected = scored(base, tmp_path / "made.jsonl", shards=view)
    _, given = scored(base, tmp_path / "given.jsonl")
    assert "view" in head and "view" not in other
    for row, made in zip(rows, expected, strict=True):
        assert row["token_log_probs"] == pytest.approx(made["token_log_probs"], abs=2e-5)
    apart = [abs(a["log_prob"] - b["log_prob"]) for a, b in zip(rows, given, strict=True)]
    assert max(apart) > 1e-3, "another view has other numbers"


def captions_of(base, path, texts):
    shards = open_shards(base / "given")
    with ColumnWork(path, shards, "caption", {}, samples=3) as work:
        for at, sample in work.missing():
            text = texts(shards.pair(at), sample)
            work.keep(at, {"instruction": text} if text else {"reason": "failed: nobody there"}, sample=sample)
        assert work.merge()
    return shards, ColumnFile(path, shards)


def three_texts(pair, sample):
    """The pair's own; the same as that of the pair before; and for one pair none at all."""
    if pair.id.endswith("4"):
        return None
    return (pair.instruction, pair.instruction, "Move the circle to the left.")[sample]


def test_texts_of_a_pair_share_its_prompt_and_have_the_numbers_they_have_alone(base, tmp_path):
    shards, captions = captions_of(base, tmp_path / "captions.jsonl", three_texts)
    texts = CandidateTexts(shards, captions, opposites=True)
    assert texts.positions.tolist() == [i for i in range(COUNT) if not shards.ids[i].endswith("4")]
    assert texts.most == 4 and len(set(texts.texts(0))) == len(texts.texts(0)), "each distinct text once"
    head, rows = scored(base, tmp_path / "texts.jsonl", texts=texts)
    _, alone = scored(base, tmp_path / "alone.jsonl")
    own = {row["id"]: row for row in alone}
    assert head["texts"] == texts.fingerprint and len(rows) == COUNT - 1
    for row in rows:
        by_text = {answer["text"]: answer for answer in row["answers"]}
        instruction = shards.pair(shards.ids.index(row["id"])).instruction
        assert by_text[instruction]["token_log_probs"] == pytest.approx(own[row["id"]]["token_log_probs"], abs=2e-5)
        assert "Move the circle to the right." in by_text


def test_what_a_killed_run_scored_is_kept(base, tmp_path):
    shards, captions = captions_of(base, tmp_path / "captions.jsonl", three_texts)
    texts = CandidateTexts(shards, captions)
    _, rows = scored(base, tmp_path / "whole.jsonl", texts=texts, with_tokens=True)
    assert all("input_ids" in answer for row in rows for answer in row["answers"])
    (tmp_path / "again.jsonl.partial").write_text((tmp_path / "whole.jsonl").read_text()[:-20])
    _, again = scored(base, tmp_path / "again.jsonl", texts=texts, with_tokens=True)
    assert again == rows


def test_columns_of_scores_by_parts(base, tmp_path):
    shards, captions = captions_of(base, tmp_path / "captions.jsonl", three_texts)
    output = tmp_path / "scores.jsonl"
    for number in range(2):
        files = {}
        for view in ("given", "swapped", "mirrored"):
            files[view] = tmp_path / f"{view}{number}.jsonl"
            texts = CandidateTexts(shards, captions, opposites=True, part=Part(number, 2))
            scored(base, files[view], texts=texts, view=view)
        assert write_log_prob_scores(output, shards, captions, files, part=Part(number, 2)) == (number == 1)
    made = {path: path.read_bytes() for path in (tmp_path / "scores.made").glob("*/lines.jsonl")}
    assert write_log_prob_scores(output, shards, captions, files, part=Part(1, 2))
    assert len(made) == 2 and all(path.read_bytes() == lines for path, lines in made.items()), "nothing is made twice"
    rows = list(ColumnFile(output, shards))
    assert [len(of_pair) for of_pair in rows] == [3] * COUNT
    for at, of_pair in enumerate(rows):
        instruction = shards.pair(at).instruction
        if shards.ids[at].endswith("4"):
            assert [row["reason"] for row in of_pair] == ["no text"] * 3
            continue
        assert of_pair[0].keys() - {"sample"} == of_pair[1].keys() - {"sample"}
        assert {"log_prob", "log_prob_per_token", "margin_swapped", "margin_mirrored"} < of_pair[0].keys()
        assert ("margin_opposite" in of_pair[0]) == (opposite(instruction) is not None)
        assert "margin_opposite" in of_pair[2]


def test_files_that_do_not_go_together_are_refused(base, tmp_path):
    shards, captions = captions_of(base, tmp_path / "captions.jsonl", three_texts)
    given, swapped = tmp_path / "given.jsonl", tmp_path / "swapped.jsonl"
    scored(base, given, texts=CandidateTexts(shards, captions))
    scored(base, swapped, texts=CandidateTexts(shards, captions, opposites=True), view="swapped")

    def write_scores(**files):
        write_log_prob_scores(tmp_path / "scores.jsonl", shards, captions, files)

    with pytest.raises(ValueError, match="swapped.jsonl and .*given.jsonl differ in texts"):
        write_scores(given=given, swapped=swapped)
    with pytest.raises(ValueError, match="expected one of --view mirrored"):
        write_scores(given=given, mirrored=swapped)
    other = captions_of(base, tmp_path / "other.jsonl", lambda pair, sample: f"{pair.instruction} {sample}")[1]
    with pytest.raises(
        ValueError, match="given.jsonl does not hold the text .* made of other texts than .*other.jsonl"
    ):
        write_log_prob_scores(tmp_path / "others.jsonl", shards, other, {"given": given})
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(given.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"cut.jsonl, line 6: not valid JSON .*it was cut or changed"):
        write_scores(given=cut)
    plain = tmp_path / "plain.jsonl"
    scored(base, plain)
    with pytest.raises(ValueError, match="log-probs of the shards' own answers: write it with --texts"):
        write_scores(given=plain)
    with pytest.raises(ValueError, match="first line is a fingerprint"):
        write_scores(given=tmp_path / "captions.jsonl")
    with pytest.raises(ValueError, match="no pair has a text to score"):
        CandidateTexts(shards, captions_of(base, tmp_path / "none.jsonl", lambda *_: None)[1])


def test_reward_is_what_training_moved_and_best_of_takes_the_text_it_prefers(base, tmp_path):
    """The whole way of a self-check: captions, their opposites, both models' log-probs, the better text."""
    shards, captions = captions_of(
        base, tmp_path / "captions.jsonl", lambda pair, sample: pair.instruction if not sample else None
    )
    assert write_alternatives(tmp_path / "alternatives.jsonl", shards, captions) > 0
    alternatives = ColumnFile(tmp_path / "alternatives.jsonl", shards)
    assert alternatives.samples == 6
    texts = CandidateTexts(shards, alternatives)
    given, other = tmp_path / "given.jsonl", tmp_path / "other.jsonl"
    rows = scored(base, given, texts=texts)[1]
    with pytest.raises(ValueError, match="have the same weights: a reference is another model"):
        list(log_prob_scores({"given": given}, given))
    small_job.write_folder(tmp_path / "model2", dataclasses.replace(small_job.SIZE, seed=9))
    others = scored(base, other, model=tmp_path / "model2", texts=texts)[1]
    write_log_prob_scores(tmp_path / "scores.jsonl", shards, alternatives, {"given": given}, reference=other)
    scores = ColumnFile(tmp_path / "scores.jsonl", shards)
    expected = {
        (row["id"], a["text"]): a["log_prob"] - b["log_prob"]
        for row, reference in zip(rows, others, strict=True)
        for a, b in zip(row["answers"], reference["answers"], strict=True)
    }
    rule = [WeightedColumn.parse("reward")]
    assert best_of(tmp_path / "best.jsonl", shards, alternatives, [scores], rule) == COUNT
    turned = 0
    for at, (pair_texts, of_pair, (best,)) in joined(
        shards, [alternatives, scores, ColumnFile(tmp_path / "best.jsonl")]
    ):
        candidates = [row["instruction"] for row in pair_texts if "instruction" in row]
        rewards = [expected[shards.ids[at], text] for text in candidates]
        assert [row["reward"] for row in of_pair if "reward" in row] == pytest.approx(rewards)
        assert best["instruction"] == candidates[rewards.index(max(rewards))]
        turned += best["chosen_sample"] == 1
    assert 0 < turned < COUNT, "some opposites are preferred, and some are not"


def test_rules_that_cannot_choose_are_refused(base, tmp_path):
    shards, captions = captions_of(base, tmp_path / "captions.jsonl", three_texts)
    for text in ("", "reward:", "reward:much", "reward:nan", "a b", "reward:1:2"):
        with pytest.raises(SettingsError, match="expected COLUMN or COLUMN:WEIGHT"):
            WeightedColumn.parse(text)
    for name, words in (
        ("reward", "no line has a column reward: expected one of instruction"),
        ("id", "no line has a column id"),
        ("instruction", "column instruction is '.*': --by takes columns of numbers"),
    ):
        with pytest.raises(SettingsError, match=words):
            best_of(tmp_path / f"{name}.jsonl", shards, captions, [captions], [WeightedColumn(name)])
    with pytest.raises(SettingsError, match="--by has reward twice"):
        best_of(tmp_path / "best.jsonl", shards, captions, [captions], [WeightedColumn("reward")] * 2)
    with ColumnWork(tmp_path / "large.jsonl", shards, "x", {}, samples=3) as work:
        for at, sample in work.missing():
            work.keep(at, {"reward": 10.0}, sample=sample)
        work.merge()
    large = [ColumnFile(tmp_path / "large.jsonl")]
    with pytest.raises(SettingsError, match="beyond all numbers: give smaller weights"):
        best_of(tmp_path / "best.jsonl", shards, captions, large, [WeightedColumn("reward", 1e308)])
    with ColumnWork(tmp_path / "one.jsonl", shards, "x", {}) as work:
        for at, _ in work.missing():
            work.keep(at, {"reward": 1.0})
        work.merge()
    with pytest.raises(SettingsError, match="has 1 lines a pair and .* 3: score the samples"):
        best_of(
            tmp_path / "best.jsonl", shards, captions, [ColumnFile(tmp_path / "one.jsonl")], [WeightedColumn("reward")]
        )
