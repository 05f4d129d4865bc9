"""Captions: every pair once, whatever is killed, divided, restarted or refused; what made each is beside it."""

import json
import os
import signal
from dataclasses import replace

import pytest

from editcaption_mega.curation.captions.caption import asked_model, caption, counts
from editcaption_mega.curation.captions.shards import is_written, write_captioned
from editcaption_mega.curation.columns import ColumnFile
from editcaption_mega.data import open_shards
from editcaption_mega.data.shards.writer import OutputError
from editcaption_mega.evaluation.generate import Part
from editcaption_mega.inference.serving.server import OwnServer, ServerError
from editcaption_mega.progress import no_progress
from editcaption_mega.settings import (
    CaptionSettings,
    EndpointSettings,
    GenerationSettings,
    ServerSettings,
    SettingsError,
)
from tests.helpers import small_job
from tests.helpers.pool import write_pool
from tests.helpers.scripted_server import ScriptedServer, pictures, say_pictures
from tests.inference.serving.test_server import SERVE, descendants

PAIRS = 12
LIMITS = {"min_pixels": 1024, "max_pixels": 1024 * 1024}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return write_pool(tmp_path_factory.mktemp("pool") / "shards", PAIRS, instruction="Old words.")


def settings(pool, output, server=None, **values):
    endpoint = {"max_concurrency": 4, "max_attempts": 1, "cache_as": "here"} | values.pop("endpoint", {})
    if server is not None:
        endpoint |= {"url": server.url, "model": "m"}
    generation = GenerationSettings(**(LIMITS | values.pop("generation", {})))
    folders = [str(folder) for folder in pool.directories]
    return CaptionSettings(
        shards=folders, output=str(output), endpoint=EndpointSettings(**endpoint), generation=generation, **values
    )


def scripted(**values):
    return ScriptedServer(reply=say_pictures, asked=pictures, **values)


def captioned(settings, pool, **options):
    return caption(settings, pool, progress=no_progress, **options)


def rows_of(path, pool):
    return list(ColumnFile(path, pool))


def test_every_pair_has_its_instruction_and_what_made_it(pool, tmp_path):
    path = tmp_path / "captions.jsonl"
    with scripted() as server:
        whole, meter = captioned(settings(pool, path, server, endpoint={"completion_price": 1e6}), pool)
        assert whole and meter.made == PAIRS and set(server.counts.values()) == {1}
        assert [row["id"] for (row,) in rows_of(path, pool)] == pool.ids
        assert len({row["instruction"] for (row,) in rows_of(path, pool)}) == PAIRS
        assert rows_of(path, pool)[0][0].keys() == {"id", "instruction", "status", "served", "tokens"}
        words = str(meter)
        assert "1,200 + 240 tokens" in words and "cost 240" in words and "/s" in words
        content = server.bodies[0]["messages"][-1]["content"]
        assert [part["type"] for part in content] == ["text", "image_url", "text", "image_url", "text"]
        whole, meter = captioned(settings(pool, path, server), pool)
        assert whole and meter.made == 0 and server.calls == PAIRS
        with pytest.raises(SettingsError, match=r"made otherwise \(max_tokens differ\)"):
            captioned(settings(pool, path, server, generation={"max_tokens": 9}), pool)
    head = ColumnFile(path).head
    assert head["settings"]["model"] == "m" and head["settings"]["prompt"] and head["step"] == "caption"


def test_what_failed_is_listed_and_asked_again_by_the_same_command(pool, tmp_path):
    path = tmp_path / "captions.jsonl"
    faults = {3: "500", 5: "refusal", 7: "500"}
    with scripted(script=lambda call, of_pair: faults.get(call)) as server:
        whole, _ = captioned(settings(pool, path, server), pool)
        assert whole and server.calls == PAIRS
        counted = counts(path)
        assert counted.made == PAIRS - 3 and dict(counted.by_status) == {"ok": PAIRS - 3, "failed": 2, "refused": 1}
        assert any("scripted 500" in reason for reason in counted.reasons)
        server.script = lambda call, of_pair: None
        whole, meter = captioned(settings(pool, path, server), pool)
        assert whole and meter.made == 2 and server.calls == PAIRS + 2, "a refusal is an answer"
    assert counts(path).made == PAIRS - 1


def test_samples_are_drawn_apart_and_parts_are_merged_by_the_last(pool, tmp_path):
    path = tmp_path / "captions.jsonl"
    with scripted() as server:
        how = settings(pool, path, server, samples=3, generation={"temperature": 1.0, "seed": 5})
        assert captioned(how, pool, part=Part(0, 2))[0] is False
        assert not path.exists() and (tmp_path / "captions.made/part-000-of-002/cache").is_dir()
        assert captioned(how, pool, part=Part(1, 2))[0] is True
        assert set(server.counts.values()) == {3} and {body["seed"] for body in server.bodies} == {5, 6, 7}
    for rows in rows_of(path, pool):
        assert [row["sample"] for row in rows] == [0, 1, 2] and len({row["instruction"] for row in rows}) == 3
    with pytest.raises(SettingsError, match="would be one text 3 times"):
        settings(pool, path, server, samples=3).validate()


def test_shards_hold_the_captions_and_what_made_them(pool, tmp_path):
    path = tmp_path / "captions.jsonl"
    with scripted(script=lambda call, of_pair: "500" if call == 3 else None) as server:
        captioned(settings(pool, path, server), pool)
        assert write_captioned(pool, path, tmp_path / "shards", no_progress) == (PAIRS - 1, 1)
        with open_shards(tmp_path / "shards") as made:
            texts = {row["id"]: row.get("instruction") for (row,) in rows_of(path, pool)}
            assert {made.pair(i).id: made.pair(i).instruction for i in range(len(made))} == {
                name: text for name, text in texts.items() if text
            }
            about = made.pair(0).provenance["caption"]
            assert about["model"] == "m" and about["replaces"] == "Old words." and about["served"] == "scripted-1"
            assert about["temperature"] == 0.0 and about["prompt"] and about["sample"] == 0
            at = pool.ids.index(made.ids[-1])
            assert made[len(made) - 1].source_bytes == pool[at].source_bytes
        assert is_written(path, tmp_path / "shards")
        server.script = lambda call, of_pair: None
        captioned(settings(pool, path, server), pool)
    assert not is_written(path, tmp_path / "shards"), "they are of an older file"
    with pytest.raises(OutputError):
        write_captioned(pool, path, tmp_path / "shards", no_progress)


def test_a_server_of_transformers_is_told_to_draw_where_a_temperature_is_asked_for(pool, tmp_path):
    """It takes a temperature and says what is likeliest all the same; n samples would be one text n times."""
    server = ServerSettings(program="transformers", model="m")

    def extra(temperature, **more):
        how = settings(pool, tmp_path / "c.jsonl", generation={"temperature": temperature}, endpoint={"extra": more})
        return asked_model(replace(how, server=server)).identity["extra"]

    assert extra(0.0) == {} and extra(0.8) == {"generation_config": '{"do_sample": true}'}
    own_words = {"generation_config": '{"do_sample": true, "top_k": 5}', "top_p": 0.9}
    assert extra(0.8, **own_words) == own_words


def own(pool, path, **values):
    command = f"{SERVE} --latency 0.3 --reply tests.helpers.scripted_server:say_pictures"
    server = ServerSettings(program="custom", model="m", command=command, **values)
    how = settings(pool, path, endpoint={"max_concurrency": 2, "max_attempts": 3, "cache_as": ""})
    return replace(how, server=server)


def test_a_server_that_dies_is_started_again_and_nothing_is_lost(pool, tmp_path, monkeypatch):
    servers = []

    class Server(OwnServer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            servers.append(self)

    monkeypatch.setattr("editcaption_mega.curation.asked_model.OwnServer", Server)
    path = tmp_path / "captions.jsonl"

    def killing(after):
        def progress(items, *_):
            for number, item in enumerate(items, start=1):
                yield item
                if number in after:
                    os.kill(descendants(servers[-1]._process.pid)[0], signal.SIGKILL)

        return progress

    whole, meter = caption(own(pool, path), pool, progress=killing({2, 6}))
    assert whole and meter.made == PAIRS and servers[-1].starts == 3
    assert counts(path).made == PAIRS and len({row["instruction"] for (row,) in rows_of(path, pool)}) == PAIRS
    with pytest.raises(ServerError, match=r"started 1 times \(server.restarts=0\), ended with code 137"):
        caption(own(pool, tmp_path / "other.jsonl", restarts=0), pool, progress=killing({3}))
    whole, meter = caption(own(pool, tmp_path / "other.jsonl", restarts=1), pool, progress=no_progress)
    assert whole and meter.made <= PAIRS - 3, "the same command goes on"


def test_a_folder_in_process_writes_the_same_whatever_was_killed(tmp_path):
    model = small_job.write_folder(tmp_path / "model")
    pairs = open_shards(small_job.write_shards(tmp_path / "shards", count=5))

    def how(path):
        generation = GenerationSettings(max_tokens=6, min_pixels=1024, batch_size=2, temperature=1.0)
        return CaptionSettings(
            shards=[str(tmp_path / "shards")], output=str(path), folder=str(model), samples=2, generation=generation
        )

    class Killed(Exception):
        pass

    def killing(items, *_):
        for number, item in enumerate(items):
            if number == 3:
                raise Killed
            yield item

    assert caption(how(tmp_path / "whole.jsonl"), pairs, progress=no_progress)[0]
    with pytest.raises(Killed):
        caption(how(tmp_path / "killed.jsonl"), pairs, progress=killing)
    whole, meter = caption(how(tmp_path / "killed.jsonl"), pairs, progress=no_progress)
    assert whole and meter.made == 7 and meter.usage.completion_tokens > 0
    assert f", {meter.usage.completion_tokens} tokens" in str(meter), "nobody counts the prompt's"
    one, other = ((tmp_path / name).read_text() for name in ("whole.jsonl", "killed.jsonl"))
    assert one == other
    rows = [json.loads(line) for line in one.splitlines()[1:]]
    assert any(a.get("instruction") != b.get("instruction") for a, b in zip(rows[::2], rows[1::2], strict=True))
