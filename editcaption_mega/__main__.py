"""`editcaption COMMAND ...`, also as `python -m editcaption_mega COMMAND ...` and `torchrun .. -m editcaption_mega`.

What the commands are called and do is written here, so that `editcaption --help` imports none of them."""

import difflib
import importlib
import os
import sys
from typing import NoReturn

_ROOM = "editcaption_mega.commands"
# Command -> (module, what it does), in the order in which somebody meets them.
COMMANDS = {
    "try": (f"{_ROOM}.first_try", "every step of a first fine-tuning on a tiny random model, in a minute"),
    "shards": (f"{_ROOM}.make_shards", "image pairs -> shards: what everything here reads"),
    "validate-shards": (f"{_ROOM}.validate_shards", "check every picture and record of a folder of shards"),
    "duplicates": (f"{_ROOM}.duplicates", "pairs that are there twice, in a set or across sets"),
    "browse": (f"{_ROOM}.browse", "a page to look through shards"),
    "train-sft": ("editcaption_mega.train", "supervised fine-tuning"),
    "train-dpo": ("editcaption_mega.train", "preference optimization: DPO and its variants"),
    "caption": (f"{_ROOM}.caption", "two pictures -> the instruction that leads from one to the other"),
    "convert": (f"{_ROOM}.convert", "Hugging Face folder -> checkpoint, and back"),
    "verify-checkpoint": (f"{_ROOM}.verify_checkpoint", "every file of a checkpoint against its checksum"),
    "curate": (f"{_ROOM}.curate", "data construction: captions, scores, filters, people's work, export"),
    "evaluate": (f"{_ROOM}.evaluate", "compare models: instructions, judges, people, a report"),
    "log-probs": (f"{_ROOM}.log_probs", "log-probability of every answer in a set of shards"),
    "small-model": (f"{_ROOM}.small_model", "a small random Qwen3-VL of any size, to try things with"),
    "plan": (f"{_ROOM}.plan", "whether a job fits and how fast it is, without a GPU"),
}
# What is stopped by a signal and goes on later, under torchrun too.
_JOBS = {"train-sft": "sft", "train-dpo": "dpo", "log-probs": ""}


def main() -> NoReturn:
    """Run the command of the command line."""
    words = sys.argv[1:]
    if words and words[0] in COMMANDS:
        _run(words[0], words[1:])
    if words in (["-h"], ["--help"]):
        _show(_help())
    if words == ["--version"]:
        from editcaption_mega import __version__

        _show(f"editcaption {__version__}")
    print(_usage(), file=sys.stderr)
    print(f"editcaption: error: {_mend(words)}", file=sys.stderr)
    sys.exit(2)


def _run(name: str, words: list[str]) -> NoReturn:
    """Parsers take their command's name from the first word of the command line."""
    sys.argv = [f"editcaption {name}", *words]
    module = importlib.import_module(COMMANDS[name][0])
    from editcaption_mega import cli

    if job := _JOBS.get(name):
        getattr(module, job)()
    (cli.run_job if name in _JOBS else cli.run)(module.main)


def _show(text: str) -> NoReturn:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader of our output went away, as in `editcaption --help | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _usage() -> str:
    return "usage: editcaption COMMAND ...   (editcaption --help lists them, editcaption COMMAND --help says more)"


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: editcaption COMMAND ...",
            "",
            "Vision-language models that write image-editing instructions: data, SFT, DPO, evaluation.",
            "",
            "commands (editcaption COMMAND --help says more):",
            *lines,
            "",
            "options:",
            f"  {'--version':{width}}the version of this package",
        ]
    )


def _mend(words: list[str]) -> str:
    """What is wrong with these words, none of which names a command."""
    if not words:
        return f"name a command: {', '.join(COMMANDS)}"
    close = difflib.get_close_matches(words[0], COMMANDS, n=1, cutoff=0.5)
    return f"{words[0]!r} is no command: " + (f"did you mean {close[0]}?" if close else f"one of {', '.join(COMMANDS)}")


if __name__ == "__main__":
    main()
