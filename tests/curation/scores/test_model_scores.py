"""Scores by a model: every pass and reply kept, what is no score has a reason, and a killed run goes on."""

import json

import pytest

from editcaption_mega.curation.captions.caption import caption
from editcaption_mega.curation.columns import ColumnFile
from editcaption_mega.curation.scores.model_scores import score_with_model, scored_counts
from editcaption_mega.curation.scores.sample_agreement import agreements, similarity, word_counts, write_agreement
from editcaption_mega.evaluation.generate import Part
from editcaption_mega.progress import no_progress
from editcaption_mega.settings import (
    CaptionSettings,
    EndpointSettings,
    GenerationSettings,
    ScoreSettings,
    SettingsError,
)
from tests.helpers.pool import write_pool
from tests.helpers.scripted_server import ScriptedServer, pictures, say_pictures

PAIRS = 6
LIMITS = {"min_pixels": 1024, "max_pixels": 1024 * 1024}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return write_pool(tmp_path_factory.mktemp("pool") / "shards", PAIRS, instruction="Make it red.")


def settings(pool, output, server, **values):
    endpoint = EndpointSettings(url=server.url, model="m", max_concurrency=1, max_attempts=1, cache_as="here")
    folders = [str(folder) for folder in pool.directories]
    return ScoreSettings(shards=folders, output=str(output), endpoint=endpoint, **LIMITS, **values)


def judge(body):
    seed = body["seed"]
    return json.dumps({"reasoning": f"pass {seed}", "score": [seed % 11, 10 - seed % 11]})


def score(settings, pool, **options):
    return score_with_model(settings, pool, progress=no_progress, **options)


def test_passes_are_lines_and_nothing_is_put_in_the_place_of_a_score(pool, tmp_path):
    path = tmp_path / "scores.jsonl"
    replies = {3: "no idea", 5: '{"score": [12.5, 3]}'}
    numbers = iter(range(1000))
    with ScriptedServer(reply=lambda body: replies.get(next(numbers)) or judge(body), asked=pictures) as server:
        how = settings(pool, path, server, passes=3, temperature=1.0, seed=4)
        assert score(how, pool)[0] and set(server.counts.values()) == {3}
        content = server.bodies[0]["messages"][-1]["content"]
        assert [part["type"] for part in content] == ["image_url", "image_url", "text"], "pictures first"
        assert content[2]["text"].rstrip().endswith("Editing instruction: Make it red.")
        rows = [row for rows in ColumnFile(path, pool) for row in rows]
        assert [row["pass"] for row in rows] == [0, 1, 2] * PAIRS
        unscored = [row for row in rows if "reason" in row]
        assert len(unscored) == 2 and {row["status"] for row in unscored} == {"unscored"}
        assert not any({"success", "over_editing"} & row.keys() for row in unscored)
        assert {row["reply"] for row in unscored} == set(replies.values()), "the raw words"
        assert any("12.5, expected a number from 0 to 10" in row["reason"] for row in unscored)
        for row in rows:
            if "reason" not in row:
                assert (row["success"], row["over_editing"]) == (4 + row["pass"], 6 - row["pass"])
        assert scored_counts(path)[0] == 3 * PAIRS - 2
        assert score(how, pool)[1].made == 2, "what has no score is asked again"
        assert scored_counts(path)[0] == 3 * PAIRS
        with pytest.raises(SettingsError, match=r"\(template differ\)"):
            score(settings(pool, path, server, passes=3, temperature=1.0, seed=4, template="principles"), pool)
    with pytest.raises(SettingsError, match="would be one reply 2 times"):
        settings(pool, path, server, passes=2).validate()


def captions_of(pool, path, server, samples):
    generation = GenerationSettings(temperature=1.0 if samples > 1 else 0.0, **LIMITS)
    endpoint = EndpointSettings(url=server.url, model="m", max_concurrency=1, max_attempts=1)
    folders = [str(folder) for folder in pool.directories]
    how = CaptionSettings(shards=folders, output=str(path), samples=samples, generation=generation, endpoint=endpoint)
    assert caption(how, pool, progress=no_progress)[0]
    return ColumnFile(path, pool)


def test_captions_of_several_samples_are_scored_each_in_parts(pool, tmp_path):
    with ScriptedServer(reply=say_pictures, script=lambda call, of: "500" if call == 2 else None) as server:
        captions_of(pool, tmp_path / "captions.jsonl", server, samples=2)
    path = tmp_path / "scores.jsonl"
    with ScriptedServer(reply=judge) as server:
        how = settings(
            pool, path, server, captions=str(tmp_path / "captions.jsonl"), passes=2, temperature=1.0,
            cache=str(tmp_path / "cache"),
        )  # fmt: skip
        assert not score(how, pool, part=Part(1, 2))[0] and score(how, pool, part=Part(0, 2))[0]
        assert server.calls == 2 * (2 * PAIRS - 1), "a caption that does not exist is not asked about"
        texts = [body["messages"][-1]["content"][2]["text"] for body in server.bodies]
        assert all("Editing instruction: Edit pair" in text for text in texts)
        again = settings(
            pool, tmp_path / "again.jsonl", server, captions=how.captions, passes=2, temperature=1.0, cache=how.cache
        )
        assert not score(again, pool, part=Part(1, 2))[0] and score(again, pool, part=Part(0, 2))[0]
        assert server.calls == 2 * (2 * PAIRS - 1), "replies are kept where both look"
    rows = list(ColumnFile(path, pool))
    assert [(row["caption"], row["pass"]) for row in rows[0]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    missing = [row for own in rows for row in own if row.get("reason") == "no instruction"]
    assert len(missing) == 2 and scored_counts(path)[0] == 4 * PAIRS - 2


def test_agreement_is_that_of_the_words(pool, tmp_path):
    assert word_counts("Move the cup LEFT, 把杯子") == word_counts("把杯子 left the cup move")
    assert similarity(word_counts("a b c d"), word_counts("a b x y")) == 0.5
    assert similarity(word_counts("a a"), word_counts("a")) == pytest.approx(2 / 3)
    assert agreements(["move left", "move left", "move right", None]) == [0.75, 0.75, 0.5, None]
    assert agreements(["alone", None]) == [None, None]
    with ScriptedServer(reply=say_pictures, script=lambda call, of: "500" if call == 2 else None) as server:
        captions = captions_of(pool, tmp_path / "captions.jsonl", server, samples=3)
        single = captions_of(pool, tmp_path / "single.jsonl", server, samples=1)
    write_agreement(captions, pool, tmp_path / "agreement.jsonl")
    rows = [row for rows in ColumnFile(tmp_path / "agreement.jsonl", pool) for row in rows]
    # "Edit pair DIGEST SEED": three of four words are shared.
    assert [row.get("agreement", row.get("reason")) for row in rows] == [0.75] * 2 + ["no instruction"] + [0.75] * 15
    with pytest.raises(SettingsError, match="one caption per pair"):
        write_agreement(single, pool, tmp_path / "other.jsonl")
