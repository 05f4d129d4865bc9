"""The images endpoint: a real HTTP server on loopback that edits, or fails as told."""

import base64
import io
import json

import pytest
from PIL import Image, PngImagePlugin

from editcaption_mega.inference.endpoint import concurrency
from editcaption_mega.inference.endpoint.address import Endpoint, EndpointError
from editcaption_mega.inference.endpoint.image_edits import Edit, edit_pictures, read_edit
from editcaption_mega.inference.endpoint.outcome import Response
from tests.helpers.hostile_server import HostileServer, http
from tests.helpers.image_bytes import encoded, photo, png_header_only
from tests.helpers.image_editor import EditServer, mirrored, picture_reply

KEY = "sk-planted-0123456789"
SOURCE = encoded(photo())


def run(server, folder, *edits, **options):
    endpoint = Endpoint(server.url, "editor", **options)
    asked = [Edit(name, SOURCE, text) for name, text in edits]
    made = edit_pictures(endpoint, asked, folder, size="64x64", cache=folder.with_name(folder.name + "_cache"))
    return {one.id: one for one in made}


def test_pictures_are_edited_once_and_kept(tmp_path):
    with EditServer() as server:
        found = run(server, tmp_path, ("a", "Mirror it."), ("b", "Mirror it, too."))
        assert found["a"].path.read_bytes() == mirrored(SOURCE) and not found["a"].reason
        again = run(server, tmp_path, ("a", "Mirror it."), ("b", "Another text."))
        assert again["a"] == found["a"]
        assert server.calls == {"Mirror it.": 1, "Mirror it, too.": 1, "Another text.": 1}
        fields = server.fields[0]
    assert fields["image"] == SOURCE
    assert (fields["model"], fields["size"], fields["response_format"]) == (b"editor", b"64x64", b"b64_json")


def test_faults_that_pass_are_tried_again_and_others_are_reasons(tmp_path, monkeypatch):
    monkeypatch.setattr(concurrency, "FIRST_BACKOFF", 0.02)
    faults = {
        "passes": [500, 429, "drop", "not json"], "stays": ["{}"] * 9, "refused": [400],
        "no picture": [json.dumps({"data": [{"b64_json": base64.b64encode(b"text").decode()}]})] * 9,
    }  # fmt: skip
    with EditServer(faults) as server:
        found = run(server, tmp_path, *((text, text) for text in faults), max_attempts=5)
    assert found["passes"].path and server.calls["passes"] == 5
    assert found["stays"].reason == "the answer has no data (after 5 attempts)"
    assert "not an image" in found["no picture"].reason
    assert found["refused"].reason.startswith("HTTP 400") and server.calls["refused"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {"passes.png", "passes.json"}


def test_the_key_is_sent_and_shown_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("EDITOR_KEY", KEY)
    with EditServer({"x": [400]}) as server:
        (one,) = run(server, tmp_path, ("x", "x"), api_key_env="EDITOR_KEY").values()
        run(server, tmp_path, ("y", "y"), api_key_env="EDITOR_KEY")
    assert "no: Bearer [key]" in one.reason and KEY not in one.reason
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())
    monkeypatch.delenv("EDITOR_KEY")
    with pytest.raises(ValueError, match="EDITOR_KEY is missing or empty"):
        run(server, tmp_path, ("z", "z"), api_key_env="EDITOR_KEY")


def test_a_bad_picture_is_a_reason_and_nothing_of_it_is_kept(tmp_path, monkeypatch):
    """Cut off, no picture, too large: the row fails, the others go on, and the next run asks again."""
    monkeypatch.setattr(concurrency, "FIRST_BACKOFF", 0.02)
    bad = {
        "cut": picture_reply(SOURCE[: len(SOURCE) // 2]),
        "text": picture_reply(b"<html>"),
        "large": picture_reply(png_header_only(60_000, 60_000)),
        "address": json.dumps({"data": [{"url": "http://127.0.0.1:1/x.png"}]}),
    }
    with EditServer({name: [reply] * 2 for name, reply in bad.items()}) as server:
        found = run(server, tmp_path / "run", *((name, name) for name in (*bad, "good")), max_attempts=2)
        assert {path.name for path in (tmp_path / "run").iterdir()} == {"good.png", "good.json"}
        again = run(server, tmp_path / "run", *((name, name) for name in (*bad, "good")), max_attempts=2)
    assert found["good"].path and "truncated or damaged image" in found["cut"].reason
    assert "not an image" in found["text"].reason and "over the limit" in found["large"].reason
    assert "which is not fetched" in found["address"].reason and server.calls["address"] == 2
    assert all(again[name].path for name in ("cut", "text", "large", "good")) and server.calls["good"] == 1


@pytest.mark.parametrize(
    "written",
    [
        lambda data: "data:image/png;base64," + base64.b64encode(data).decode(),
        lambda data: base64.encodebytes(data).decode(),
        lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    ],
)
def test_base64_as_servers_write_it(written):
    answer = Response(200, {}, bytearray(json.dumps({"data": [{"b64_json": written(SOURCE)}]}).encode()))
    assert read_edit(answer).status == "ok"


def test_a_large_picture_is_the_editors_and_not_the_users():
    found = read_edit(Response(200, {}, bytearray(picture_reply(SOURCE).encode())), max_pixels=64)
    assert found.reason.endswith("have the editor make smaller ones (editor.size), or raise editor.max_pixels"), found


def test_a_picture_is_kept_upright_on_white_and_without_anything_else(tmp_path):
    clear = photo(32, 32).convert("RGBA")
    clear.putalpha(0)
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", KEY)
    exif = Image.Exif()
    exif[0x0112] = 6
    sent = {
        "clear": encoded(clear), "comment": encoded(photo(32, 32), pnginfo=text),
        "sideways": encoded(photo(32, 16), "JPEG", exif=exif),
        "grey": encoded(photo(32, 32, "L"), "WEBP", lossless=True),
    }  # fmt: skip
    with EditServer({name: [picture_reply(data)] for name, data in sent.items()}) as server:
        found = run(server, tmp_path / "run", *((name, name) for name in sent))
    kept = {name: one.path.read_bytes() for name, one in found.items()}
    pictures = {name: Image.open(io.BytesIO(data)) for name, data in kept.items()}
    assert {(picture.format, picture.mode) for picture in pictures.values()} == {("PNG", "RGB")}
    assert pictures["clear"].getextrema() == ((255, 255),) * 3 and pictures["sideways"].size == (16, 32)
    assert KEY.encode() not in kept["comment"]


def test_what_is_kept_is_that_editors_and_undamaged(tmp_path):
    with EditServer() as server, EditServer() as other:
        run(server, tmp_path / "run", ("a", "x"))
        run(other, tmp_path / "run", ("a", "x"))
        assert server.calls == other.calls == {"x": 1}, "another address is another editor"
        run(server, tmp_path / "run", ("a", "x"), cache_as=other.url)
        assert server.calls == other.calls == {"x": 1}
        picture, mark = tmp_path / "run/a.png", tmp_path / "run/a.json"
        for damage, paid in (
            (lambda: picture.write_bytes(picture.read_bytes()[:100]), 2),
            (lambda: mark.write_text("{"), 2),  # the cache says what the picture is
            (picture.unlink, 3),
            (mark.unlink, 3),
        ):
            damage()
            assert run(other, tmp_path / "run", ("a", "x"))["a"].path.read_bytes() == mirrored(SOURCE)
            assert other.calls == {"x": paid}
    calls = [json.loads(line) for line in (tmp_path / "run_cache/calls.jsonl").read_text().splitlines()]
    assert len(calls) == 4 and {call["status"] for call in calls} == {"ok"}, "each call is a line, as of chat"


def test_edits_that_ask_the_same_are_paid_once(tmp_path):
    """In one call, and in another folder: two models write the same instruction for a pair."""
    with EditServer() as server:
        endpoint, cache = Endpoint(server.url, "editor", max_concurrency=4), tmp_path / "cache"
        same = [Edit(f"{n}", SOURCE, "Mirror it.") for n in range(5)]
        for folder in ("one", "two"):
            made = list(edit_pictures(endpoint, same, tmp_path / folder, cache=cache))
            assert [one.path.read_bytes() for one in made] == [mirrored(SOURCE)] * 5
            assert {one.path.parent for one in made} == {tmp_path / folder}
        assert server.calls == {"Mirror it.": 1}
        # A run's folder may be moved as a whole; a picture that is another one by now is none.
        (tmp_path / "moved").mkdir()
        for name in ("one", "two", "cache"):
            (tmp_path / name).rename(tmp_path / "moved" / name)
        list(edit_pictures(endpoint, same, tmp_path / "moved/three", cache=tmp_path / "moved/cache"))
        assert server.calls == {"Mirror it.": 1}
        for name in ("one", "two", "three"):
            for path in (tmp_path / "moved" / name).glob("*.png"):
                path.write_bytes(b"another picture")
        list(edit_pictures(endpoint, same[:1], tmp_path / "moved/four", cache=tmp_path / "moved/cache"))
        assert server.calls == {"Mirror it.": 2}


def test_a_source_that_is_no_picture_is_a_reason_and_no_call(tmp_path):
    with EditServer() as server:
        asked = [Edit("text", b"no picture", "x"), Edit("good", SOURCE, "x")]
        made = edit_pictures(Endpoint(server.url, "editor"), asked, tmp_path / "run", cache=tmp_path / "cache")
        found = {one.id: one for one in made}
        assert server.calls == {"x": 1} and found["good"].path
    assert found["text"].path is None and "expected PNG, JPEG, WebP or GIF" in found["text"].reason


def test_an_editor_that_is_of_no_use_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(concurrency, "FIRST_BACKOFF", 0.001)
    edits = [(f"{n}", f"{n}") for n in range(60)]
    with pytest.raises(EndpointError, match="can't be used for editor: no connection"):
        run(Gone, tmp_path / "gone", *edits)
    with EditServer({text: [500] * 9 for _, text in edits}) as server:
        with pytest.raises(EndpointError, match="failed 50 requests in a row, the last with: HTTP 500"):
            run(server, tmp_path / "down", *edits, max_attempts=1)
    with HostileServer(http([{"error": {"code": 400, "message": "API key not valid."}}], 400)) as server:
        with pytest.raises(EndpointError, match="API key not valid"):
            run(server, tmp_path / "key", *edits, max_concurrency=1)
        assert len(server.heard) == 1


def test_ids_are_names_of_files(tmp_path):
    with EditServer() as server:
        for ids in (("a", "a"), ("../a",), ("",), ("a/b",)):
            with pytest.raises(ValueError, match="its id names the file"):
                run(server, tmp_path / "run", *((name, "x") for name in ids))


class Gone:
    url = "http://127.0.0.1:9/v1"
