"""Where and by what a run was started, for its log."""

import shlex
import socket
import subprocess
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path

import torch

from editcaption_mega import __version__, platform
from editcaption_mega.process_pool import usable_cores
from editcaption_mega.words import SECRET_NAME, printable, without_secrets

_ROOT = Path(__file__).resolve().parents[2]  # of a checkout
_SECONDS_FOR_GIT = 10.0
_LEAST_CORES = 4  # of a rank with a GPU: one launches, one plans, two decode


def start_facts() -> list[str]:
    """Lines: machines and devices, versions, the checkout's commit, the command without its secrets. Collective."""
    cuda = torch.cuda.is_available()
    mine = (socket.gethostname(), torch.cuda.get_device_name() if cuda else "CPU")
    places = platform.gather((*mine, usable_cores()))
    nodes = len({host for host, *_ in places})
    devices = ", ".join(f"{count} x {name}" for name, count in Counter(name for _, name, _ in places).items())
    lines = [f"started on {mine[0]}: {len(places)} rank{'s' * (len(places) > 1)} on {nodes} node{'s' * (nodes > 1)}, "
             f"{devices}"]  # fmt: skip
    lines += _core_lines([(host, cores) for host, _, cores in places], cuda=cuda)
    versions = [f"editcaption_mega {__version__}", f"Python {sys.version.split()[0]}", f"torch {torch.__version__}"]
    versions += [f"{name} {metadata.version(name)}" for name in ("megatron-core", "transformers")]
    versions += [f"CUDA {torch.version.cuda}"] if cuda else ["no CUDA"]
    lines.append(f"versions: {', '.join(versions)}")
    if commit := _commit():
        lines.append(f"commit: {commit}")
    lines.append(f"command: {command(sys.argv)}")
    return lines


def _core_lines(places: list[tuple[str, frozenset[int]]], *, cuda: bool) -> list[str]:
    """How many cores the ranks have on the node that has fewest for each; places: host and cores of each rank."""
    ranks = Counter(host for host, _ in places)
    of_host = {host: len(frozenset().union(*(cores for at, cores in places if at == host))) for host in ranks}
    host = min(ranks, key=lambda host: of_host[host] / ranks[host])
    share = f"{of_host[host]} for {ranks[host]} rank{'s' * (ranks[host] > 1)}"
    lines = [f"cores: {share}" + (f" on {host}, other nodes have as many or more" if len(ranks) > 1 else "")]
    if cuda and of_host[host] < _LEAST_CORES * ranks[host]:
        lines.append(
            f"WARNING: {host} has {share}, fewer than {_LEAST_CORES} each: GPUs will wait for pictures and launches. "
            "Ask for the cores of whole nodes (sbatch --exclusive; srun --cpus-per-task, --cpu-bind=none)"
        )
    return lines


def command(words: list[str]) -> str:
    """A command line as it can be given again, but for its secrets."""
    shown = []
    program, *arguments = words  # the installed one's name has its command in it, as usage lines show it
    for word in [*program.split(" "), *arguments] if program.startswith("editcaption ") else words:
        name, equals, _ = word.partition("=")
        shown.append(f"{name}=[hidden]" if equals and SECRET_NAME.search(name) else word)
    return printable(without_secrets(shlex.join(shown)))


def _commit() -> str:
    """Of the checkout that this package lies in, with `-dirty` where files were changed; "" outside of one."""
    if not (_ROOT / ".git").exists():
        return ""
    words = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS_FOR_GIT)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
