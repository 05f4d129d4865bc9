"""Ground truth for benchmarks that have none: several models describe each pair, one merges, a person checks.

    propose   descriptions by several models -> a merged proposal per pair        proposals.jsonl
    (check)   a person edits `changes`, sets `approved` and signs                 the same rows
    freeze    approved rows -> a versioned file with a hash                       ground_truth.json

The hash is in the provenance of all that is judged with it."""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from editcaption_mega.data.text.quoting import quoted
from editcaption_mega.files import read_json_object, write_atomically
from editcaption_mega.inference.endpoint.address import Endpoint
from editcaption_mega.inference.endpoint.client import Message, Picture, Request, complete
from editcaption_mega.progress import Progress
from editcaption_mega.records import Changes
from editcaption_mega.records.evaluation import EvaluationRecord
from editcaption_mega.records.record import Text
from editcaption_mega.settings import SettingsError
from editcaption_mega.words import one_line

from .benchmarks import Benchmark
from .record_files import read_records, write_records
from .reply_objects import last_object

SCHEMA_VERSION = 1
MAX_TOKENS = 2048

DESCRIBE = """\
Picture A is the source, picture B the target of an edit. List every change between them.
primary: what somebody must be told to edit A into B. secondary: what follows from that (shadows, reflections, small
shifts) and side effects. Say for each change what it is, where it is, and its colour, texture, number, direction or
amount as far as they can be seen. Say nothing that cannot be seen.
Answer with one JSON object: {"primary": ["..."], "secondary": ["..."], "overall": "one sentence"}"""

MERGE = """\
Picture A is the source, picture B the target of an edit. Several people have described the changes; each statement has
an id. Merge them into one ground truth: one entry per real change, in the clearest words, with the ids of all
statements that mean it; leave out what the pictures do not show, with the reason. Use every id exactly once.
Statements:
{statements}
Answer with one JSON object: {"primary": [{"text": "...", "from": ["M1.1"]}], "secondary": [{"text": "...", "from":
["M2.3"]}], "overall": "one sentence", "dropped": [{"from": ["M2.4"], "why": "..."}]}"""


class Proposal(EvaluationRecord):
    """The proposed truth of one pair, and what a person made of it."""

    id: Text
    changes: Changes | None = None
    reason: Text | None = None  # why there is no proposal
    # change id -> the models whose description holds it; what only one model saw deserves a look
    support: dict[str, list[str]] = Field(default_factory=dict)
    dropped: list[Text] = Field(default_factory=list)  # statements left out, and models without any, with the reason
    approved: bool = False
    annotator: Annotated[str, Field(max_length=200)] = ""


def propose(
    benchmark: Benchmark,
    describers: dict[str, Endpoint],
    merger: Endpoint,
    cache: Path,
    progress: Progress,
) -> list[Proposal]:
    """One proposal per pair in the benchmark's order; with a reason instead of changes where a model gave no answer.

    Raises SettingsError before any call without at least two describers: agreement is what shows a model's errors."""
    check_describers(describers)
    described: dict[str, dict[str, dict[str, Any]]] = {pair_id: {} for pair_id in benchmark.ids}
    silent: dict[str, list[str]] = {pair_id: [] for pair_id in benchmark.ids}
    for name, endpoint in describers.items():
        requests = (
            Request(item.pair.id, _messages(DESCRIBE, item.source, item.target), MAX_TOKENS, parse=read_description)
            for item in benchmark
        )
        for reply in complete(endpoint, requests, cache, progress=progress, total=len(benchmark)):
            if reply.value is not None:
                described[reply.id][name] = reply.value
            else:
                silent[reply.id].append(f"{name} gave no description ({reply.status}: {reply.reason})")
    statements = {pair_id: _statements(by_model) for pair_id, by_model in described.items() if len(by_model) >= 2}
    failed = {pair_id: "; ".join(silent[pair_id]) for pair_id in benchmark.ids if pair_id not in statements}
    merged: dict[str, dict[str, Any]] = {}
    ready = [i for i, pair_id in enumerate(benchmark.ids) if pair_id in statements]
    for reply in complete(
        merger, _merge_requests(benchmark, ready, statements), cache, progress=progress, total=len(ready)
    ):
        if reply.value is not None:
            merged[reply.id] = reply.value
        else:
            failed[reply.id] = f"merging {reply.status}: {reply.reason}"
    return [
        Proposal(id=pair_id, reason=failed[pair_id])
        if pair_id in failed
        else _proposal(pair_id, merged[pair_id], statements[pair_id], list(described[pair_id]), silent[pair_id])
        for pair_id in benchmark.ids
    ]


def check_describers(describers: Collection[str]) -> None:
    """Raises SettingsError for fewer than two."""
    if len(describers) < 2:
        raise SettingsError(f"ground truth needs at least two models that describe, found {len(describers)}")


def freeze(benchmark: Benchmark, rows: Iterable[Proposal], path: Path) -> str:
    """Write the checked proposals as ground truth -> its hash. Raises ValueError for rows that nobody has approved."""
    content = frozen(benchmark, rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=1) + "\n")
    return str(content["hash"])


def frozen(benchmark: Benchmark, rows: Iterable[Proposal]) -> dict[str, Any]:
    """What `freeze` writes. Raises ValueError as it does."""
    rows = list(rows)
    benchmark.check_join((row.id for row in rows), "the checked proposals")
    unsigned = [row.id for row in rows if not row.approved or not row.annotator.strip() or row.changes is None]
    if unsigned:
        raise ValueError(
            f"{len(unsigned)} of {len(rows)} proposals are not approved by a named annotator (first: {unsigned[0]}): "
            "check each, set approved to true and annotator to a name"
        )
    checked = {row.id: row.changes for row in rows if row.changes is not None}  # all of them
    truth = {pair_id: checked[pair_id].model_dump(exclude_none=True) for pair_id in benchmark.ids}
    return {
        "schema": SCHEMA_VERSION,
        "benchmark": benchmark.name,
        "fingerprint": benchmark.fingerprint,
        "hash": truth_hash(truth),
        "annotators": sorted({row.annotator for row in rows}),
        "pairs": {pair_id: benchmark.key(i) for i, pair_id in enumerate(benchmark.ids)},
        "changes": truth,
    }


def read_ground_truth(path: str | Path, benchmark: Benchmark | None = None) -> dict[str, Changes]:
    """Ground truth by id; with a benchmark, of its pairs alone, which may be a part of those that were checked.

    Raises ValueError for a file whose hash is not its content's, or that was made for other pictures or lacks pairs."""
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"ground truth {path} does not exist: make it with editcaption evaluate ground-truth")
    try:
        content = read_json_object(file)
        truth = {pair_id: Changes.model_validate(changes) for pair_id, changes in content["changes"].items()}
        written, fingerprint, pairs = content["hash"], content["fingerprint"], dict(content.get("pairs", {}))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is no ground truth: expected the file that `ground-truth freeze` writes") from None
    if truth_hash(content["changes"]) != written:
        raise ValueError(f"{path} was changed by hand: its hash is not that of its content; freeze it again")
    if benchmark is None or fingerprint == benchmark.fingerprint:
        return truth
    same = {i for i, pair_id in enumerate(benchmark.ids) if pair_id in truth and pairs.get(pair_id) == benchmark.key(i)}
    other = [pair_id for i, pair_id in enumerate(benchmark.ids) if i not in same]
    if other:
        raise ValueError(
            f"{path} was made for other pairs than these (another release or list of ids): {len(other)} of "
            f"{len(benchmark)} are not in it with these pictures (first: {other[0]}); make it again"
        )
    return {pair_id: truth[pair_id] for pair_id in benchmark.ids}


def truth_hash(truth: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(truth, sort_keys=True).encode()).hexdigest()[:32]


# ---- replies ---------------------------------------------------------------------------------------------------------


def read_description(text: str) -> dict[str, Any]:
    """{"primary": [str], "secondary": [str], "overall": str}. Raises ValueError that says what is wrong."""
    description = last_object(text)
    for name in ("primary", "secondary"):
        if not isinstance(description.get(name), list) or not all(
            isinstance(text, str) and text.strip() for text in description[name]
        ):
            raise ValueError(f"{name!r} must be a list of sentences, found {description.get(name)!r:.80}")
    if not description["primary"]:
        raise ValueError("'primary' is empty: the pictures differ, so something must have changed")
    if not isinstance(description.get("overall"), str) or not description["overall"].strip():
        raise ValueError(f"'overall' must be a sentence, found {description.get('overall')!r:.80}")
    return description


def read_merged(text: str, statements: dict[str, str]) -> dict[str, Any]:
    """The merged truth; every statement's id exactly once. Raises ValueError that says what is wrong."""
    merged = last_object(text)
    used: list[str] = []
    for name, words in (("primary", "text"), ("secondary", "text"), ("dropped", "why")):
        entries = merged.setdefault(name, [])
        if not isinstance(entries, list):
            raise ValueError(f"{name!r} must be a list, found {entries!r:.80}")
        for entry in entries:
            if not isinstance(entry, dict) or not isinstance(entry.get(words), str) or not entry[words].strip():
                raise ValueError(f"an entry of {name!r} must hold {words!r} and 'from', found {entry!r:.80}")
            if not isinstance(entry.get("from"), list) or not entry["from"]:
                raise ValueError(f"an entry of {name!r} names no statement in 'from': {entry!r:.80}")
            used += map(str, entry["from"])
    if sorted(used) != sorted(statements):
        wrong = sorted(set(used) ^ set(statements)) or [name for name, times in Counter(used).items() if times > 1]
        raise ValueError(
            f"every statement's id must be used exactly once; wrong: {', '.join(map(one_line, wrong)):.200}"
        )
    if not merged["primary"] or not isinstance(merged.get("overall"), str) or not merged["overall"].strip():
        raise ValueError("'primary' must hold at least one change and 'overall' one sentence")
    return merged


def _statements(descriptions: dict[str, dict[str, Any]]) -> dict[str, str]:
    """id (M<model>.<number>) -> what it says."""
    return {
        f"M{m}.{n}": statement
        for m, description in enumerate(descriptions.values(), start=1)
        for n, statement in enumerate(description["primary"] + description["secondary"], start=1)
    }


def _merge_requests(
    benchmark: Benchmark, positions: list[int], statements: dict[str, dict[str, str]]
) -> Iterator[Request[dict[str, Any]]]:
    for i in positions:
        item = benchmark.item(i)
        of_pair = statements[item.pair.id]
        listed = "\n".join(f"{name}: {quoted(text)}" for name, text in of_pair.items())
        yield Request(
            item.pair.id, _messages(MERGE.replace("{statements}", listed), item.source, item.target), MAX_TOKENS,
            parse=partial(read_merged, statements=of_pair),
        )  # fmt: skip


def _messages(text: str, source: bytes, target: bytes) -> tuple[Message, ...]:
    return (Message("user", ("Picture A: ", Picture(source), "\nPicture B: ", Picture(target), "\n" + text)),)


def _proposal(
    pair_id: str, merged: dict[str, Any], statements: dict[str, str], models: list[str], silent: list[str]
) -> Proposal:
    changes: dict[str, Any] = {"overall": merged["overall"]}
    support: dict[str, list[str]] = {}
    for name, letter in (("primary", "P"), ("secondary", "S")):
        changes[name] = [{"id": f"{letter}{n}", "text": e["text"]} for n, e in enumerate(merged[name], start=1)]
        for n, entry in enumerate(merged[name], start=1):
            numbers = sorted({int(statement.split(".")[0].removeprefix("M")) for statement in entry["from"]})
            support[f"{letter}{n}"] = [models[number - 1] for number in numbers]
    dropped = [f"{statements[name]} ({entry['why']})" for entry in merged["dropped"] for name in entry["from"]]
    return Proposal(id=pair_id, changes=Changes(**changes), support=support, dropped=dropped + silent)


def write_proposals(path: Path, rows: list[Proposal]) -> None:
    write_records(path, rows)


def read_proposals(path: Path) -> list[Proposal]:
    return read_records(path, Proposal)
