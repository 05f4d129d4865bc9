"""`editcaption caption`: the instruction alone on stdout, and a reason where there is none."""

import pytest

from editcaption_mega import cli
from editcaption_mega.commands.caption import main
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from tests.helpers import small_job
from tests.helpers.scripted_server import ScriptedServer


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("caption")
    pair = render_pair(WorldSettings(), 3, 0)
    for name, image in (("a.png", pair.source), ("b.png", pair.target)):
        (root / name).write_bytes(encode_png(image))
    return [str(root / "a.png"), str(root / "b.png")]


def test_a_folder_writes(pictures, tmp_path, capsys):
    small_job.write_folder(tmp_path / "model")
    assert cli.exit_code(main, [*pictures, "--model", str(tmp_path / "model"), "--max-tokens", "6"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() and "note: cut off at max_tokens" in printed.err


@pytest.mark.parametrize(
    "text, code, words", [("Paint it red.", 0, ""), ("I'm sorry, I can't help with that.", 1, "wrote no instruction")]
)
def test_an_address_writes(pictures, capsys, text, code, words):
    with ScriptedServer(lambda body: text) as server:
        assert cli.exit_code(main, [*pictures, "--model", "m", "--url", server.url]) == code
    printed = capsys.readouterr()
    assert words in printed.err and printed.out == ("" if code else f"{text}\n")


@pytest.mark.parametrize(
    "more, words",
    [
        (["--model", "nowhere"], "nowhere: no such folder"),
        (["--model", "m", "--url", "localhost:8000"], "must look like"),
        (["--model", "m", "--key-env", "KEY"], "--key-env is of --url"),
        (["--model", "m", "--url", "http://127.0.0.1:1/v1", "--key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY is missing"),
        (["--model", "m", "--max-pixels", "10"], "max_pixels=10"),
        (["--model", "m", "--prompt", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_cannot_work(pictures, capsys, more, words):
    assert cli.exit_code(main, [*pictures, *more]) == 2
    assert words in capsys.readouterr().err
