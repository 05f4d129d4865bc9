"""How inference programs are started: one command each, with places for the model, the port and the number of GPUs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from editcaption_mega.data.text.side_files import is_peft_folder
from editcaption_mega.settings import ServerSettings, SettingsError, before_work

from .vllm_adapters import VllmAdapter

_PLACE = re.compile(r"\{(model|port|gpus)\}")


@dataclass(frozen=True)
class Program:
    command: tuple[str, ...]
    health: str  # path that answers 200 as soon as the model can be asked


PROGRAMS = {
    "vllm": Program(
        ("vllm", "serve", "{model}", "--host", "127.0.0.1", "--port", "{port}", "--tensor-parallel-size", "{gpus}",
         "--limit-mm-per-prompt", '{"image": 2}'), "/health",
    ),
    "sglang": Program(
        ("python", "-m", "sglang.launch_server", "--model-path", "{model}", "--host", "127.0.0.1", "--port", "{port}",
         "--tp-size", "{gpus}"), "/health",
    ),
    "transformers": Program(
        ("transformers", "serve", "{model}", "--host", "127.0.0.1", "--port", "{port}"), "/health"
    ),
}  # fmt: skip
CUSTOM_HEALTH = "/v1/models"


def program_of(settings: ServerSettings) -> Program:
    """The program with its own arguments. Raises SettingsError for one that is not installed."""
    if settings.program == "custom":
        program = Program(tuple(_words("server.command", settings.command)), settings.health or CUSTOM_HEALTH)
    else:
        named = PROGRAMS[settings.program]
        program = Program(named.command, settings.health or named.health)
    first, *rest = program.command
    found = executable(first)
    if found is None:
        raise SettingsError(
            f"server.program={settings.program}: {first} was not found: install it beside {sys.executable} or put it "
            "on PATH, or give the whole command as server.command with server.program=custom"
        )
    words = (found, *rest, *_words("server.arguments", settings.arguments))
    return Program(_with_adapters(words, settings), program.health)


def _with_adapters(words: tuple[str, ...], settings: ServerSettings) -> tuple[str, ...]:
    """The same, where the model is a PEFT folder: its adapters are served under that name, beside the weights."""
    if settings.program == "custom" or not is_peft_folder(settings.model):
        return words
    if settings.program != "vllm":
        raise SettingsError(
            f"server.model={settings.model} is a PEFT folder, which server.program={settings.program} does not serve: "
            "take vllm, or put the adapters into the weights (editcaption convert megatron-to-hf --base)"
        )
    with before_work():
        adapter = VllmAdapter.of(settings.model)
    assert adapter is not None
    of_base = (str(adapter.base) if word == "{model}" else word for word in words)
    return (*of_base, *adapter.words(settings.model))


def command_line(program: Program, model: str, port: int) -> list[str]:
    values = {"model": model, "port": str(port), "gpus": str(max(1, gpu_count()))}
    return [_PLACE.sub(lambda place: values[place[1]], word) for word in program.command]


def executable(name: str) -> str | None:
    """Its path: beside this Python, where an environment has its programs, else as the shell looks for it."""
    if name in ("python", "python3"):
        return sys.executable
    beside = str(Path(sys.executable).parent)
    return shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))


def gpu_count() -> int:
    """How many GPUs this process may use; 0 on a machine without any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    if (tool := shutil.which("nvidia-smi")) is None:
        return 0
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False).stdout
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def _words(what: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise SettingsError(f"{what} is no command line ({error}): {text!r}") from None
