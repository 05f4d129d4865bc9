"""What every tool shares: its arguments, its exit code, and errors as one readable line."""

import argparse
import hashlib
import math
import os
import re
import socket
import sys
import textwrap
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from editcaption_mega import job_outcome, signals
from editcaption_mega.job_outcome import JobOutcome
from editcaption_mega.settings import BACKENDS, ParallelSettings
from editcaption_mega.words import printable, without_credentials

if TYPE_CHECKING:
    from editcaption_mega.evaluation.generate import Part

type Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # what `add_subparsers` gives

_MOST_WORKERS = 8  # of a conversion, unless the user says more
_HELP_WIDTH = 100
CALLED_AS = "EDITCAPTION_CALLED_AS"  # the name of the script that started a command's command
_MOST_COUNTED = 20  # lines of a list that counts
_INTERRUPTED = 130  # the shell's code for Ctrl-C
# How gloo and NCCL say, among words of their own, that another rank is gone.
_LOST_RANK = re.compile(r"Connection (?:closed|reset) by peer|Broken pipe|remote process exited|ncclRemoteError")
_SECONDS_FOR_THE_CAUSE = 3.0  # until a rank that lost another one has heard why
_STOPPED_CODE = "EDITCAPTION_STOPPED_CODE"  # for a queue that tells a stopped job from a finished one by its code


class ArgumentError(ValueError):
    """Arguments or settings that can't be used: exit code 2. Other error classes may carry an `exit_code` too."""

    exit_code = 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if message.endswith("expected one argument"):
            message += " (a value that begins with '-' is written --OPTION=VALUE)"
        if message.startswith("unrecognized arguments:") and re.search(r": [\w.]+=", message):
            message += " (key=value is written right behind the file of settings, before any --OPTION)"
        if re.match(r"unrecognized arguments: --?config\b", message):
            message += " (the file of settings is named without an option)"
        super().error(message)


def argument_parser(description: str, example: str) -> argparse.ArgumentParser:
    """A parser with `--debug`, whose --help ends with the example (one command, or several lines)."""
    indented = "\n".join("  " + line for line in example.strip().splitlines())
    parser = _Parser(
        description=description,
        epilog=f"example:\n{indented}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_command(
    commands: Subparsers, name: str, *, example: str, help: str, description: str
) -> argparse.ArgumentParser:
    """The parser of a command's command, such as `caption` of curate: with `--debug`, too, and a --help that ends with
    the example. A script of launch/ that starts it gives it its own name (`CALLED_AS`)."""
    parser = commands.add_parser(
        name,
        prog=os.environ.get(CALLED_AS),
        help=help,
        description=textwrap.fill(description, _HELP_WIDTH),
        epilog="example:\n" + textwrap.indent(example.strip(), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Not given here is as it was before the command: there `--debug` stands, too.
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    return parser


def positive(text: str) -> int:
    """The type of an argument that counts something. Raises ArgumentTypeError below 1."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number: give one from 1 on") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def between(least: float, most: float) -> Callable[[str], float]:
    """The type of an argument that is a number of this range, ends included."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:  # NaN is in no range
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {least:g} to {most:g}")
        return value

    return number


def check_output_file(option: str, path: Path | None, *, makes_folder: bool = False) -> None:
    """That the file an option names can be written when the work is done. Raises ArgumentError; None is no file.
    makes_folder: whether the work makes its folder, as steps that write columns do."""
    if path is None:
        return
    if path.is_dir():
        raise ArgumentError(f"{option} {path} is a folder: name a file")
    folder = path.parent
    while makes_folder and not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise ArgumentError(f"{option} {path}: {folder} is no folder: make it, or name a file in one that is")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ArgumentError(f"{option} {path} cannot be written by this user: name another file")


def check_used(parser: argparse.ArgumentParser, arguments: argparse.Namespace, option: str, *others: str) -> None:
    """That options which mean something with `option` only are not given without it. Raises ArgumentError."""
    name = option.removeprefix("--").replace("-", "_")
    for other in others if not getattr(arguments, name) else ():
        place = other.removeprefix("--").replace("-", "_")
        if getattr(arguments, place) != parser.get_default(place):
            raise ArgumentError(f"{other} has a meaning with {option} only: give both, or neither")


def check_named_folder(option: str, path: Path | None, *, written: bool = False) -> None:
    """That the folder an option names is there, and (written) that files can be made in it. Raises ArgumentError; None
    is no folder."""
    if path is None:
        return
    if not path.is_dir():
        there = "is a file" if path.exists() else "does not exist"
        raise ArgumentError(
            f"{option} {path} {there}: {'make it first, or ' if written else ''}name a folder that is there"
        )
    if written and not os.access(path, os.W_OK):
        raise ArgumentError(f"{option} {path} cannot be written by this user: name another folder")


def add_layout_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of tools that run under torchrun: parallel sizes and the layer backend."""
    for flag, meaning in (("tp", "tensor"), ("pp", "pipeline"), ("ep", "expert")):
        parser.add_argument(f"--{flag}", type=int, default=1, metavar="N", help=f"{meaning} parallel size (default 1)")
    parser.add_argument("--etp", type=int, metavar="N", help="expert tensor parallel size (default: that of --tp)")
    parser.add_argument("--cp", type=int, default=1, metavar="N", help="context parallel size (only 1)")
    parser.add_argument("--backend", choices=BACKENDS, default="torch")


def add_conversion_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of both conversions."""
    parser.add_argument("--dtype", choices=("bf16", "fp32"), help="of all weights (default: as the source has them)")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read back what was written and compare it with the source before it is published; an output that is "
        "there already is only compared",
    )
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="processes (default: one for each core, 8 at most; 1 for a rank)"
    )


def conversion(arguments: argparse.Namespace) -> dict[str, Any]:
    """What those flags say, as parameters of the conversions."""
    import torch

    from editcaption_mega.process_pool import cores

    default = 1 if int(os.environ.get("WORLD_SIZE", "1")) > 1 else min(_MOST_WORKERS, cores())
    dtypes = {"bf16": torch.bfloat16, "fp32": torch.float32}
    return {
        "dtype": dtypes.get(arguments.dtype),
        "workers": arguments.workers or default,
        "verify": arguments.verify,
    }


def layout(arguments: argparse.Namespace) -> ParallelSettings:
    """The settings behind those flags. Raises SettingsError for sizes that can never work."""
    settings = ParallelSettings(
        tensor_model_parallel_size=arguments.tp,
        pipeline_model_parallel_size=arguments.pp,
        expert_model_parallel_size=arguments.ep,
        expert_tensor_parallel_size=arguments.etp,
        context_parallel_size=arguments.cp,
    )
    settings.validate()
    return settings


def add_settings_arguments(parser: argparse.ArgumentParser, configs: str) -> None:
    """A file of settings and what replaces some of them. configs: such as "eval", of the shipped files."""
    parser.add_argument("config", help=f"YAML file of settings (configs/{configs}_*.yaml)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")


def part_of(text: str) -> "Part | None":
    """`K/N` as the part of a divided run; None for "". Raises ArgumentError."""
    if not text:
        return None
    from editcaption_mega.evaluation.generate import Part

    number, slash, count = text.partition("/")
    try:
        if not slash:
            raise ValueError
        return Part(int(number), int(count))
    except ValueError:
        raise ArgumentError(f"--part is {text!r}, expected K/N with K from 0 to N - 1, such as 0/4") from None


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> NoReturn:
    """Run a tool and exit: `run(main)` is the last line of every tool. See `exit_code`. Ranks end with torchrun.

    A rank of several that failed ends at once, when it has said why: torchrun then ends the others, which wait for it
    in a collective, while the interpreter's own end would wait for that collective."""
    if "LOCAL_RANK" in os.environ:
        signals.leave_with_launcher()
    code = exit_code(main, argv)
    if code and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run_job(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> NoReturn:
    """`run` for a training job: from its first moment on signals ask it to save and leave, and its end is written
    where its launcher looks (`job_outcome`)."""
    signals.listen()

    def reporting(words: Sequence[str]) -> int | None:
        try:
            return main(words)
        except SystemExit as end:  # of the parser, which has said why
            if end.code:
                job_outcome.report(JobOutcome.here(job_outcome.ERROR, "the arguments cannot be used", exit_code=2))
            raise
        except Exception as error:
            job_outcome.report(JobOutcome.of_error(error))
            raise

    run(reporting, argv)


def stopped_code(number: int) -> int:
    """The exit code of a job that signal `number` ended (0: none did): 0, or what the launcher asked for."""
    return int(os.environ.get(_STOPPED_CODE, "0")) if number else 0


def exit_code(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Call `main(argv)` (default: the command line) and give the exit code: 0, 1 (the work failed), 2 (bad arguments
    or settings), 130 (interrupted).

    ValueError, OSError, FloatingPointError (a training run that diverged) and whatever has an `exit_code` are the
    user's to mend and become one line `error: ...` on stderr; that `exit_code` is used (`ArgumentError`: 2), else 1.
    Anything else is a defect of ours and says so. `--debug` among the arguments adds the traceback.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return main(argv) or 0
    except KeyboardInterrupt:
        _report("interrupted", argv)
        return _INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as in `tool | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        expected = isinstance(error, (ValueError, OSError, FloatingPointError)) or hasattr(error, "exit_code")
        words = "; ".join([_one_line(error), *getattr(error, "__notes__", [])])
        if expected:
            _report(f"error: {words}", argv)
        else:
            _report(f"error: {_unexpected(error, words)}", argv, is_cause=False)
        return getattr(error, "exit_code", 1)


def print_counts(title: str, counts: Counter[str]) -> None:
    """The title and a line for each thing counted, the most frequent first, on stderr; nothing where nothing was."""
    if counts:
        print(f"{title}:", file=sys.stderr)
    for name, count in counts.most_common(_MOST_COUNTED):
        print(f"  {count} x {name}", file=sys.stderr)
    if len(counts) > _MOST_COUNTED:
        print(f"  and {len(counts) - _MOST_COUNTED} other kinds", file=sys.stderr)


def _unexpected(error: Exception, words: str) -> str:
    """What an error says that is nobody's to mend. words: its own, with its notes, which say where its traceback is."""
    notes = getattr(error, "__notes__", [])
    if isinstance(error, RuntimeError) and _LOST_RANK.search(str(error)):
        lost = "the connection to another rank was lost: that one has ended, or cannot be reached"
        return "; ".join([lost, *(notes or ["--debug shows where"])])
    return f"unexpected {type(error).__name__}: {words if notes else f'{words} (--debug shows where)'}"


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return printable(f"{' -> '.join(names)}: {error.strerror}" if names else error.strerror)
    return printable(without_credentials(" ".join(str(error).split()))) or type(error).__name__


def _report(line: str, argv: Sequence[str], is_cause: bool = True) -> None:
    if "--debug" in argv:
        traceback.print_exc()
    rank = os.environ.get("RANK")
    if rank is None:
        print(line, file=sys.stderr, flush=True)
    elif _speaks(line, is_cause):
        named = rank == "0" or "(rank " in line  # what ranks raise together names the rank that it came from
        where = "" if named else f" (rank {rank} on {socket.gethostname()})"
        print(line + where, file=sys.stderr, flush=True)


def _speaks(line: str, is_cause: bool) -> bool:
    """Of the ranks that torchrun started on this machine one says each sentence; and what is only a consequence, as the
    backend's words for a lost rank are, nobody says beside the cause. Ranks share a folder of torchrun's."""
    own = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not own:
        return True
    folder = Path(own).parents[1]
    if not is_cause:
        time.sleep(_SECONDS_FOR_THE_CAUSE)
        if any(folder.glob("said-*")):
            return False
    try:
        (folder / f"said-{hashlib.sha256(line.encode()).hexdigest()[:16]}").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # no such folder: said twice is better than never
        return True
    return True
