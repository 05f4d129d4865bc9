"""Shipped configurations, their rank roles executed without values, and the memory that each took when it was measured.

    python -m tests.planning.step_checks [CONFIG.yaml ..]

executes all rank roles of these configurations (all of configs/ without one) and writes their peaks anew to
tests/data_files/step_memory.json, for when a step is meant to take more, or takes less.
"""

import ast
import json
import re
import sys
from functools import cache
from pathlib import Path

import megatron.core

from editcaption_mega.model.released import architecture_to_plan
from editcaption_mega.planning.dry_run.rank_step import RankRecord
from editcaption_mega.planning.roles import Role, distinct_roles, execute_roles
from editcaption_mega.planning.workload import UNIFORM
from editcaption_mega.settings import load_job
from tests.helpers import ROOT
from tests.helpers.shared_data import DATA_FILES

CONFIGS = sorted(path.name for kind in ("sft", "dpo") for path in (ROOT / "configs").glob(f"{kind}_qwen3_vl_*.yaml"))
MEMORY = DATA_FILES / "step_memory.json"
_PACKAGES = {"editcaption_mega": ROOT, "megatron": Path(megatron.core.__path__[0]).parents[1]}


def gpus_said(text: str) -> int | None:
    """GPUs of a configuration by its first comment: `on 4 nodes of 8 GPUs`, `on one GPU`."""
    comment = " ".join(text.partition("\nmodel:")[0].replace("#", " ").split())
    said = re.search(r"\bon (one|\d+) (?:nodes? of (\d+) )?GPUs?\b", comment)
    return (1 if said[1] == "one" else int(said[1])) * int(said[2] or 1) if said else None


def world_size(config: str) -> int:
    said = gpus_said((ROOT / "configs" / config).read_text(encoding="utf-8"))
    assert said, f"{config} says in its first comment on how many GPUs it is for, such as 'on 4 nodes of 8 GPUs'"
    return said


def execute(config: str, *, last_only: bool = False) -> dict[Role, RankRecord]:
    """A step of each rank role of a configuration, or of the last stage's alone, which has head and loss."""
    settings = load_job(ROOT / "configs" / config)
    architecture, ranks = architecture_to_plan(settings.model.folder), world_size(config)
    roles = distinct_roles(settings, ranks)
    roles = roles[-1:] if last_only else roles
    return dict(zip(roles, execute_roles(settings, architecture, UNIFORM, ranks, roles), strict=True))


def function_at(where: str) -> str:
    """FILE:LINE of a package as FILE:FUNCTION, which stays where lines move."""
    file, _, line = where.rpartition(":")
    spans = _functions(_PACKAGES[file.partition("/")[0]] / file)
    names = [name for first, last, name in spans if first <= int(line) <= last]
    return f"{file}:{names[-1] if names else '<module>'}"


@cache
def _functions(file: Path) -> list[tuple[int, int, str]]:
    """First line, last line and name of each function, inner ones after the outer."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
    return sorted((node.lineno, node.end_lineno, node.name) for node in nodes)


def known_memory() -> dict[str, dict[str, int]]:
    """Configuration -> role -> bytes of the peak."""
    return json.loads(MEMORY.read_text(encoding="utf-8"))


def main(configs: list[str]) -> None:
    memory = known_memory() if MEMORY.exists() else {}
    for config in configs or CONFIGS:
        records = execute(config)
        memory[config] = {role.name: record.peak.total for role, record in records.items()}
        for role, record in records.items():
            print(f"{config}, {role.name}: {record.peak.total / 2**30:.2f} GiB", flush=True)
            for kind, places in (("wait", record.host_syncs), ("mixed", record.mixed)):
                for place, count in places.items():
                    print(f"  {kind} {count} {place.what} {place.where} {function_at(place.where)}", flush=True)
        shipped = {name: memory[name] for name in CONFIGS if name in memory}
        MEMORY.write_text(json.dumps(shipped, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
