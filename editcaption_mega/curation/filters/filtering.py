"""The filter as a step: columns in, new shards out, with a page and a file that say what became of every pair.

OUTPUT/                  shards of what stays; each pair's provenance names the rules, files and values that let it
OUTPUT.survival.json     counts per stage, thresholds, calibrations (editcaption curate export puts it in the data card)
                         and the fingerprints of the new shards and of the set that they are from
OUTPUT.verdicts.jsonl    each pair's id, whether it stays, and the rule that dropped it
OUTPUT.html              the same to look at
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editcaption_mega.curation.columns import ColumnFile, joined
from editcaption_mega.curation.kept_pairs import SURVIVAL, sets_before
from editcaption_mega.curation.lint.findings import RULES as LINT_RULES
from editcaption_mega.data.images.formats import extension
from editcaption_mega.data.shards.reader import ShardReader, open_shards
from editcaption_mega.data.shards.writer import ShardWriter, refuse_used
from editcaption_mega.files import replacing, write_atomically
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import SettingsError

from .column_values import ColumnValues, read_values
from .decisions import STAYS, Decision, Quotas, decide
from .filter_page import FilterPage, write_page
from .filter_rules import FilterRule


@dataclass(frozen=True)
class FilterPlan:
    """What a filter is asked for. columns: files of columns; instructions: one of them that has `instruction`, which
    takes the place of the pair's own; best: the column that says which sample of a pair counts."""

    rules: Sequence[FilterRule]
    columns: Sequence[Path]
    instructions: Path | None = None
    best: str | None = None
    labels: Mapping[str, bool] = field(default_factory=dict)
    quotas: Quotas = field(default_factory=Quotas)


def filter_pairs(
    shards: ShardReader, plan: FilterPlan, output: Path, *, only_page: bool = False, progress: Progress = no_progress
) -> Decision:
    """Write what stays -> what was decided. only_page: everything but the shards.

    Memory: the reader's, and 9 bytes per rule and pair. A killed run begins again with the same command. Raises
    SettingsError for rules that do not fit the files, ValueError where labels do not suffice or nothing stays."""
    if not only_page:
        refuse_used(output)
    files = _opened(shards, plan)
    texts = None if plan.instructions is None else next(f for f in files if f.path == plan.instructions)
    rules = [*([] if texts is None else [_has_instruction(texts)]), *plan.rules]
    _refuse_equal_names(files)
    _refuse_unknown_lint(rules, files)
    values = read_values(shards, files, rules, best=plan.best, progress=progress)
    decision = decide(shards.ids, values, rules, plan.labels, plan.quotas)
    told = decision.to_json() | {"files": [_named(file) for file in files]}
    output.parent.mkdir(parents=True, exist_ok=True)
    write_page(
        output.with_name(output.name + ".html"),
        FilterPage(shards, rules, values, decision, texts, [(f["file"], f["step"]) for f in told["files"]]),
    )
    survival = output.with_name(output.name + SURVIVAL)
    write_atomically(survival, json.dumps(told, indent=1) + "\n")
    _write_verdicts(output.with_name(output.name + ".verdicts.jsonl"), shards.ids, decision)
    if not len(decision.kept):
        raise ValueError(f"no pair stays: {output.name}.html shows which rule dropped how many")
    if not only_page:
        _write_shards(shards, output, decision, values, rules, texts, told, progress)
        # What columns of the whole set are joined to these pairs by.
        of = {"fingerprint": open_shards(output).fingerprint, "of": [shards.fingerprint, *sets_before(shards)]}
        write_atomically(survival, json.dumps(told | {"shards": of}, indent=1) + "\n")
    return decision


def _has_instruction(texts: ColumnFile) -> FilterRule:
    stem = texts.path.name.removesuffix(".jsonl")
    return FilterRule("has an instruction", f"{stem}.instruction", "text", "")


def _refuse_equal_names(files: Sequence[ColumnFile]) -> None:
    paths: dict[str, Path] = {}
    for file in files:
        other = paths.setdefault(file.path.name, file.path)
        if other != file.path:
            raise SettingsError(
                f"two files of columns have one name, {other} and {file.path}: a rule names a column's file by it "
                f"({file.path.stem}.COLUMN); rename one"
            )


def _refuse_unknown_lint(rules: Sequence[FilterRule], files: Sequence[ColumnFile]) -> None:
    """Raises SettingsError for a rule that the linter does not have: no list would ever hold it."""
    linted = [file.path.name.removesuffix(".jsonl") for file in files if file.step == "lint"]
    for rule in rules:
        stem, _, name = rule.column.rpartition(".")
        if rule.kind != "list" or name != "lint" or not (stem in linted if stem else linted):
            continue
        (word,) = rule.words
        if word != "none" and word.removeprefix("!") not in LINT_RULES:
            known = ", ".join(LINT_RULES)
            raise SettingsError(f"rule {rule.text!r}: the linter has no such rule; expected none or one of {known}")


def _opened(shards: ShardReader, plan: FilterPlan) -> list[ColumnFile]:
    paths = list(dict.fromkeys([*plan.columns, *([] if plan.instructions is None else [plan.instructions])]))
    return [ColumnFile(path, shards) for path in paths]


def _named(file: ColumnFile) -> dict[str, Any]:
    with open(file.path, "rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {"file": file.path.name, "step": file.step, "settings": file.head["settings"], "sha256": digest}


def _write_verdicts(path: Path, ids: Sequence[str], decision: Decision) -> None:
    with replacing(path) as out:
        for identity, at in zip(ids, decision.dropped_at, strict=True):
            why = {} if at == STAYS else {"reason": decision.stages[at].rule}
            out.write(json.dumps({"id": identity, "kept": bool(at == STAYS)} | why, ensure_ascii=False) + "\n")


def _write_shards(
    shards: ShardReader, output: Path, decision: Decision, values: ColumnValues, rules: Sequence[FilterRule],
    texts: ColumnFile | None, told: dict[str, Any], progress: Progress,
) -> None:  # fmt: skip
    shared = {
        "rules": [
            {"rule": s.rule} | ({} if s.threshold is None else {"threshold": s.threshold}) for s in decision.stages
        ],
        "files": {file["file"]: {key: file[key] for key in ("step", "settings", "sha256")} for file in told["files"]},
    } | {key: told[key] for key in ("quotas", "seed") if key in told}
    with ShardWriter(output) as writer:
        said = _instructions(shards, texts, values)
        for at in progress((int(at) for at in decision.kept), len(decision.kept), "written"):
            sample = shards[at]
            numbers = {rules[place].column: float(column[at]) for place, column in values.numbers.items()}
            passed = shared | {"values": {name: value for name, value in numbers.items() if value == value}}
            earlier = sample.pair.provenance.get("filters", [])
            update: dict[str, Any] = {"provenance": {**sample.pair.provenance, "filters": [*earlier, passed]}}
            if texts is not None:
                text = next(text for place, text in said if place == at)
                update["instruction"] = text
                made = {"file": texts.path.name, "step": texts.step, "settings": texts.head["settings"]}
                update["provenance"]["instruction"] = made | {"sample": int(values.sample[at])}
            pair = sample.pair.model_copy(update=update)
            source, target = sample.source_bytes, sample.target_bytes
            writer.add(pair, source, extension(source), target, extension(target))


def _instructions(
    shards: ShardReader, texts: ColumnFile | None, values: ColumnValues
) -> Iterator[tuple[int, str | None]]:
    if texts is not None:
        for at, (rows,) in joined(shards, [texts]):
            yield at, rows[values.sample[at] if len(rows) > 1 else 0].get("instruction")
