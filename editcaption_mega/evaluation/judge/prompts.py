"""What a judge is asked: one prompt per dimension (our wording of the paper's listings 1 to 3) around two pictures.

The prompts are files in `prompt_texts/`; whether labels or the judge's own numbers are used afterwards does not change
them, so both modes share the cached replies."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from string import Template

import yaml

from editcaption_mega.data.text.quoting import escaped, quoted
from editcaption_mega.evaluation.benchmarks import BenchmarkPair, truth_of
from editcaption_mega.inference.endpoint.client import Message, Picture
from editcaption_mega.records import DIMENSIONS, Change, Changes
from editcaption_mega.settings.evaluation import RulesRole

CANDIDATE = "candidate"  # in place of the model's name, which could sway the judge (the paper shows the name)


@dataclass(frozen=True)
class JudgePrompt:
    dimension: str
    version: int
    system: str
    user: str  # with ${ground_truth}, ${candidate}, ${instruction} and ${ticket}

    @property
    def fingerprint(self) -> str:
        """Changes with every letter of the prompt; version and hash, as rows and reports name it."""
        content = json.dumps([self.dimension, self.system, self.user])
        return f"v{self.version}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    def messages(
        self, item: BenchmarkPair, instruction: str, *, candidate: str = CANDIDATE, role: RulesRole = "system"
    ) -> tuple[Message, ...]:
        """The rules, pictures A and B, ground truth and instruction. role: who speaks the rules (listings: [SYSTEM]);
        with "user" they open the only message, for servers that know no system message."""
        truth = truth_of(item.pair)
        text = Template(self.user).substitute(
            ground_truth=ground_truth_text(truth),
            candidate=escaped(candidate),
            # As a JSON string, so that no text can end where it likes and go on in the judge's voice.
            instruction=quoted(instruction),
            ticket=ticket(self.dimension, truth, instruction),
        )
        parts = ("Picture A (before):", Picture(item.source), "Picture B (after):", Picture(item.target), text)
        if role == "user":
            return (Message("user", (self.system, *parts)),)
        return Message("system", (self.system,)), Message("user", parts)


@cache
def judge_prompt(dimension: str) -> JudgePrompt:
    """The prompt of one of records.DIMENSIONS."""
    assert dimension in DIMENSIONS, dimension
    file = resources.files("editcaption_mega.evaluation.judge").joinpath("prompt_texts", f"{dimension}.yaml")
    return JudgePrompt(dimension=dimension, **yaml.safe_load(file.read_text("utf-8")))


def ticket(dimension: str, truth: Changes, instruction: str) -> str:
    """What a verdict repeats to show whose it is: 16 hex digits that an instruction cannot hold, as they are made of
    it. Equal requests have equal tickets."""
    content = [dimension, truth.model_dump(exclude_none=True), instruction]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def ground_truth_text(truth: Changes) -> str:
    """The changes with their ids, as every prompt shows them: each text is one JSON string, as the instruction is."""

    def listed(changes: Iterable[Change]) -> str:
        return "\n".join(f"[{escaped(change.id)}] {quoted(change.text)}" for change in changes) or "(none)"

    parts = ("Primary changes:", listed(truth.primary), "Secondary changes:", listed(truth.secondary))
    return "\n".join((*parts, "Overall:", quoted(truth.overall)))
