"""Layouts for other numbers of GPUs (configs/layouts.yaml), and the page with their figures by fit:

python -m tests.planning.gpu_counts --write docs/gpu_counts.md
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from editcaption_mega.model.released import architecture_to_plan
from editcaption_mega.planning.layouts.fit import Fit, fit
from editcaption_mega.planning.layouts.modes import PlannedJob
from editcaption_mega.planning.timing.hardware import load_hardware
from editcaption_mega.planning.workload import UNIFORM
from editcaption_mega.settings import load_job
from tests.helpers import ROOT

LAYOUTS = ROOT / "configs" / "layouts.yaml"
HARDWARE = {80: "h100", 141: "h200"}
HEAD = """\
# Layouts for other numbers of GPUs

Written by `make configurations` from [layouts.yaml](../configs/layouts.yaml): settings to add to a shipped SFT or DPO
configuration alike, whose batch and learning rate stay. Figures are by `--mode fit`, as estimates
([planning.md](planning.md)); those of the configurations as they are stand in [configurations.md](configurations.md).
What is not here is found with `tools/plan.py CONFIG --gpus N --mode search`; what does not fit is said by `--mode fit`,
with the nearest layout that does.

| model | GPUs | settings to add | SFT step s | free | DPO step s | free | why |
|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Listed:
    """An entry. memory: of a GPU, a key of HARDWARE; add: key=value, separated by blanks."""

    model: str
    gpus: int
    memory: int
    add: str
    why: str

    def job(self, kind: str) -> PlannedJob:
        """The planned job of a stage, sft or dpo."""
        settings = load_job(ROOT / f"configs/{kind}_qwen3_vl_{self.model}.yaml", self.add.split())
        hardware = load_hardware(HARDWARE[self.memory])
        architecture = architecture_to_plan(settings.model.folder)
        return PlannedJob(settings, architecture, UNIFORM, self.gpus, hardware, hardware.memory_gib)

    def fit(self, kind: str) -> Fit:
        job = self.job(kind)
        with job.pieces() as pieces:
            return fit(pieces, job.settings, job.world_size)


def listed() -> Iterator[Listed]:
    for model, entries in yaml.safe_load(LAYOUTS.read_text(encoding="utf-8")).items():
        for entry in entries:
            yield Listed(model, **entry)


def line_of(entry: Listed) -> str:
    figures = []
    for kind in ("sft", "dpo"):
        made = entry.fit(kind)
        figures += [f"{made.time.seconds:.2f}", f"{100 * made.headroom:.0f} %"]
    add = f"`{entry.add}`" if entry.add else "none"
    gpus = f"{entry.gpus} of {entry.memory} GB"
    return f"| {entry.model} | {gpus} | {add} | {' | '.join(figures)} | {entry.why} |\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="file for the page; without it the page is printed")
    arguments = parser.parse_args()
    text = HEAD + "".join(line_of(entry) for entry in listed())
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
