"""Judging instructions for a benchmark: by a judge model behind an endpoint, or by the rules of the synthetic world.

A judge model is asked once per dimension, sees neither the model's name nor any order in the models, and returns
labels; `reply_scores` makes scores of them. Whatever could not be judged is `unscored` with its reason."""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.rubric.flags import flags
from editcaption_mega.inference.endpoint.address import Endpoint
from editcaption_mega.inference.endpoint.client import Reply, Request, Usage, complete
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.records import DIMENSIONS, Changes, Instruction, Judgement, shown
from editcaption_mega.settings import JudgeSettings, PixelLimits

from .code_judges import code_judge
from .prompts import CANDIDATE, judge_prompt
from .reply import ParsedReply, parse_reply
from .reply_scores import Scored, score_reply

Instructions = Mapping[str, Mapping[str, Instruction]]  # model -> id -> what it wrote
RULE_JUDGE = "rules"
_LONGEST_REPLY = 4000  # characters of a judge's words that a row keeps; the cache has all of them


@dataclass(frozen=True)
class _Task:
    """One instruction to judge."""

    position: int  # of its pair in the benchmark
    truth: Changes
    instruction: Instruction

    @property
    def text(self) -> str:
        """Of an instruction that there is: others are not asked about."""
        assert self.instruction.instruction is not None
        return self.instruction.instruction


@dataclass(frozen=True)
class _Result:
    """What one request came to."""

    outcome: Scored | str  # a dimension, or why it has no score
    about: dict[str, Any]  # for the row's provenance


def judge_benchmark(
    benchmark: Benchmark,
    instructions: Instructions,
    judge: JudgeSettings,
    cache: Path | None,
    *,
    pictures: PixelLimits | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
    usage: Usage | None = None,
) -> dict[str, list[Judgement]]:
    """model -> its judgements in the benchmark's order, the repeats of a pair side by side.

    judge: of kind model. Its mode "labels": scores are computed from the judge's labels; "paper": its own numbers
    count. Both modes ask the same, so the other one costs nothing with the same cache. pictures: how large the judge
    sees them; None: the defaults. seed: of the order in which (model, pair) are asked. usage: where calls, tokens and
    cost are added up. Equal replies give equal rows; nothing in them depends on time or order.

    Raises ValueError before any call: settings that cannot be, pairs without ground truth, ids that do not fit the
    benchmark, no model."""
    judge.validate()
    endpoint = Endpoint.of(judge.endpoint, pictures or PixelLimits())
    tasks = _tasks(benchmark, instructions)
    asked = [task for of_model in tasks.values() for task in of_model if task.instruction.instruction is not None]
    random.Random(seed).shuffle(asked)
    total = len(asked) * judge.repeats * len(DIMENSIONS)
    results: dict[str, _Result] = {}
    by_key = {_key(task, repeat, d): task for task in asked for repeat in range(judge.repeats) for d in DIMENSIONS}
    requests = _requests(benchmark, asked, judge)
    for reply in complete(endpoint, requests, cache, total=total, progress=progress):
        if usage is not None:
            usage.add(reply)
        results[reply.id] = _result(reply, by_key[reply.id], judge)

    def judgement(task: _Task, repeat: int) -> Judgement:
        of_task: dict[str, _Result] = {d: results.get(_key(task, repeat, d)) or _unasked(task) for d in DIMENSIONS}
        return _judgement(task, judge, repeat, of_task)

    return {
        model: [judgement(task, repeat) for task in of_model for repeat in range(judge.repeats)]
        for model, of_model in tasks.items()
    }


def rule_judge_benchmark(
    benchmark: Benchmark, instructions: Instructions, *, name: str = RULE_JUDGE, kind: str = "rule"
) -> dict[str, list[Judgement]]:
    """The same rows from one of `CODE_JUDGES` (rule: for pairs of the synthetic world): no model, no repeats.

    Raises ValueError: as `judge_benchmark`, for a truth without the facts that it needs, and for what the judge's
    function returns that is no judgement."""
    code_judge(kind)
    tasks = _tasks(benchmark, instructions)
    return {model: [_code_row(task, kind, name) for task in own] for model, own in tasks.items()}


def _tasks(benchmark: Benchmark, instructions: Instructions) -> dict[str, list[_Task]]:
    """model -> its instructions in the benchmark's order. Raises ValueError for what cannot be judged or joined."""
    if not instructions:
        raise ValueError("there is no model to judge: give the instructions of at least one")
    truths = {pair.id: pair.changes for pair in benchmark.pairs()}
    bare = [pair_id for pair_id, truth in truths.items() if truth is None]
    if bare:
        raise ValueError(
            f"benchmark {benchmark.name}: {len(bare)} of {len(benchmark)} have no ground truth (first: {bare[0]}): "
            "a judge needs their 'changes', so build a ground truth for the set first"
        )
    for model, rows in instructions.items():
        benchmark.check_join(rows, f"instructions of {model}")
        for pair_id, row in rows.items():
            identity = (row.benchmark, row.id, row.model)
            if identity != (benchmark.name, pair_id, model):
                raise ValueError(
                    f"instructions of {model}: the row of {pair_id} says (benchmark, id, model) = {identity}, expected "
                    f"{(benchmark.name, pair_id, model)}"
                )
    return {
        model: [_Task(i, truth, rows[pair_id]) for i, (pair_id, truth) in enumerate(truths.items()) if truth]
        for model, rows in instructions.items()
    }


def judged_digest(instruction: Instruction, truth: Changes) -> str:
    """What a judgement depends on, beside the judge: the text and the ground truth. In each row's provenance."""
    content = [instruction.instruction, instruction.reason, truth.model_dump(exclude_none=True)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _key(task: _Task, repeat: int, dimension: str) -> str:
    return f"{task.instruction.model}/{task.instruction.id}/{repeat}/{dimension}"


def _requests(benchmark: Benchmark, tasks: Sequence[_Task], judge: JudgeSettings) -> Iterator[Request[Any]]:
    """Lazily, in the order of `tasks`: the pictures of one pair are read when its turn comes."""
    for task in tasks:
        item = benchmark.item(task.position)
        candidate = task.instruction.model if judge.show_model else CANDIDATE
        for dimension in DIMENSIONS:
            prompt = judge_prompt(dimension)
            messages = prompt.messages(item, task.text, candidate=candidate, role=judge.rules_role)
            for repeat in range(judge.repeats):
                yield Request(
                    id=_key(task, repeat, dimension),
                    messages=messages,
                    max_tokens=judge.max_tokens,
                    temperature=judge.temperature,
                    top_p=judge.top_p,
                    seed=repeat if judge.temperature else None,
                    repeat=repeat,
                    quotes=True,
                    parse=partial(
                        parse_reply,
                        dimension=dimension,
                        truth=task.truth,
                        instruction=task.text,
                        mode=judge.mode,
                    ),
                )


def _result(reply: Reply[ParsedReply], task: _Task, judge: JudgeSettings) -> _Result:
    about: dict[str, Any] = {"served": reply.model}
    if (parsed := reply.value) is None:
        return _Result(f"{reply.status}: {reply.reason}", about | {"replies": reply.text[:_LONGEST_REPLY]})
    scored = score_reply(parsed.reply, task.truth, task.text, table=judge.table, terms=judge.forbidden)
    about |= {"repairs": list(parsed.repairs), "reasoning": parsed.reply.reasoning[:_LONGEST_REPLY]}
    return _Result(scored, about)


def _unasked(task: _Task) -> _Result:
    """An instruction that does not exist has no score."""
    return _Result(f"no instruction: {task.instruction.reason}", {})


def _judgement(task: _Task, judge: JudgeSettings, repeat: int, results: Mapping[str, _Result]) -> Judgement:
    """results: dimension -> what its request came to."""
    scored = {d: result.outcome for d, result in results.items() if isinstance(result.outcome, Scored)}
    unscored = {d: result.outcome for d, result in results.items() if isinstance(result.outcome, str)}
    paper = judge.mode == "paper"
    labels = {field: value for dimension in scored.values() for field, value in dimension.labels.items()}
    return Judgement(
        benchmark=task.instruction.benchmark,
        id=task.instruction.id,
        model=task.instruction.model,
        judge=judge.name,
        repeat=repeat,
        scores={d: dimension.judge_score if paper else dimension.score for d, dimension in scored.items()},
        unscored=unscored,
        judge_scores={d: dimension.judge_score for d, dimension in scored.items()} if paper else None,
        deviations=[sentence for dimension in scored.values() for sentence in dimension.deviations],
        provenance=_provenance(task, judge, results, scored),
        **labels,
    )


def _provenance(
    task: _Task, judge: JudgeSettings, results: Mapping[str, _Result], scored: Mapping[str, Scored]
) -> dict[str, Any]:
    provenance: dict[str, Any] = {
        "mode": judge.mode,
        "judged": judged_digest(task.instruction, task.truth),
        "prompts": {dimension: judge_prompt(dimension).fingerprint for dimension in results},
        "judge_model": judge.endpoint.model,
    }
    for field in ("served", "repairs", "reasoning", "replies"):
        if by_dimension := {d: result.about[field] for d, result in results.items() if result.about.get(field)}:
            provenance[field] = by_dimension
    for dimension in scored.values():
        provenance |= dimension.details
    if hints := flags(task.instruction.instruction or ""):
        provenance["flags"] = hints
    return provenance


def _code_row(task: _Task, kind: str, name: str) -> Judgement:
    one, truth = task.instruction, task.truth
    who = {"benchmark": one.benchmark, "id": one.id, "model": one.model, "judge": name}
    about = {"mode": "rules", "judged": judged_digest(one, truth)}
    if one.instruction is None:
        reason = f"no instruction: {one.reason}"
        return Judgement(**who, unscored=dict.fromkeys(DIMENSIONS, reason), provenance=about)
    judge = code_judge(kind)
    labels = judge.judge(one.instruction, truth)
    where = f"what judge {name} (kind {kind}, evaluation/judge/code_judges.py) returned for pair {one.id}"
    if not isinstance(labels, dict) or not isinstance(labels.get("provenance", {}), dict):
        raise ValueError(f"{where} is {shown(labels)}: expected the fields of a Judgement as a dict")
    if taken := sorted({*who, "repeat"} & set(labels)):
        raise ValueError(f"{where}: field '{taken[0]}' is not the judge's to say: leave it out")
    row = Judgement.from_json(who | labels | {"provenance": about | labels.get("provenance", {})}, where=where)
    if beyond := [dimension for dimension in row.scores if dimension not in judge.dimensions]:
        raise ValueError(
            f"{where}: it scores {beyond[0]}, and its dimensions are {' and '.join(judge.dimensions)} alone: add it to "
            "these, or give a reason in 'unscored'"
        )
    return row
