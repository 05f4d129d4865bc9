"""Readers of what servers, judges and people send. See driver.Reader."""

import base64
import json
from pathlib import Path
from random import Random

from editcaption_mega.evaluation.ground_truth import (
    read_description,
    read_ground_truth,
    read_merged,
    read_proposals,
    truth_hash,
)
from editcaption_mega.evaluation.human.filed_answers import read_answers
from editcaption_mega.evaluation.human.tasks import Key
from editcaption_mega.evaluation.human.verdicts import import_answers
from editcaption_mega.evaluation.judge.reply import parse_reply
from editcaption_mega.evaluation.judge.reply_scores import score_reply
from editcaption_mega.evaluation.record_files import read_records
from editcaption_mega.inference.endpoint import image_edits
from editcaption_mega.inference.endpoint.openai_protocol import read_completion
from editcaption_mega.inference.endpoint.outcome import Response
from editcaption_mega.records import HumanVerdict, Instruction, Judgement
from tests.helpers.image_bytes import encoded, photo
from tests.helpers.judge_cases import TABLE_6, accuracy_reply, clarity_reply, completeness_reply

from .driver import Attempt, Reader
from .mutate import mutated, mutated_json

_REPLIES = {
    "accuracy": accuracy_reply(("correct", "p1"), ("minor", None), ("fabricated", None)),
    "completeness": completeness_reply(("p1", "p2"), ("s1",)),
    "clarity": clarity_reply(("make",), 3),
}
_COMPLETION = {
    "id": "x", "object": "chat.completion", "model": "m", "usage": {"prompt_tokens": 9, "completion_tokens": 5},
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Add a hat.",
                                                          "reasoning_content": "I see a cat."}}
    ],
}  # fmt: skip
_ERRORS = [
    {"error": {"message": "no", "type": "invalid_request_error", "code": "x", "param": None}},
    [{"error": {"code": 400, "message": "API key not valid", "details": [{"reason": "x"}]}}],
    {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    {"object": "error", "message": "no", "code": 404},
    {"detail": [{"loc": ["body"], "msg": "field required"}]},
    {"error": {"code": 429, "details": [{"@type": "RetryInfo", "retryDelay": "13s"}], "message": "slow"}},
]  # fmt: skip
_HEADERS = ("Retry-After", "retry-after-ms", "x-ratelimit-reset-requests", "Date", "Content-Type")


def _judges(random: Random, folder: Path, attempt: Attempt) -> None:
    dimension = random.choice(list(_REPLIES))
    whole = _REPLIES[random.choice([dimension, dimension, dimension, "clarity"])]
    text = mutated_json(random, json.loads(whole)).decode("utf-8", "replace")
    before = random.choice(
        ("", "Step 1: look.\n", "<think>{}</think>", "```json\n", "{" * 5000, '{"a": [' * 3000, "[" * 200_000)
    )
    after = random.choice(("", "\n```", "}" * 50, " Done.", text, whole, "\\" * 9999, '"' * 50_001))
    text = before + text + after
    if random.random() < 0.2:
        text = mutated(random, text.encode("utf-8", "surrogatepass"), whole.encode()).decode("utf-8", "replace")
    instruction = random.choice(("Add a hat.", text[:200], whole))
    mode = random.choice(("labels", "paper"))
    if parsed := attempt(parse_reply, text, dimension, TABLE_6, instruction=instruction, mode=mode):
        attempt(score_reply, parsed.reply, TABLE_6, "Add a hat.")


def _endpoints(random: Random, folder: Path, attempt: Attempt) -> None:
    value = random.choice([_COMPLETION, _COMPLETION, *_ERRORS])
    edit = {
        "created": 1,
        "data": [{"b64_json": base64.b64encode(encoded(photo(9, 7))).decode()}],
        "usage": {"input_tokens": 3},
    }
    is_edit = random.random() < 0.3
    body = mutated_json(random, edit if is_edit and random.random() < 0.7 else value)
    if random.random() < 0.05:
        body = random.choice(
            (b"", b"null", b"[" * 300_000, b"<html>502 Bad Gateway</html>", b'{"choices": ' + b"9" * 9000 + b"}")
        )
    headers = {
        random.choice(_HEADERS): str(random.choice(("1", "1e999", "-5", "99999999999", "soon", "x" * 9000, "\x1b[0m")))
    }
    code = random.choice((200, 200, 200, 201, 302, 400, 401, 403, 404, 408, 413, 418, 429, 500, 503, 529))
    answer = Response(code, headers, bytearray(body))
    outcome = attempt(image_edits.read_edit if is_edit else read_completion, answer)
    assert outcome is not None and outcome.status in ("ok", "refused", "truncated", "malformed", "failed")
    assert outcome.status == "ok" or outcome.reason


def _rows(random: Random, folder: Path, attempt: Attempt) -> None:
    common = {"benchmark": "b", "id": "a", "model": "m"}
    scores = {
        "scores": {"accuracy": 3.0, "completeness": 1},
        "unscored": {"clarity": "no"},
        "judge": "j",
        "hits": ["p1"],
    }
    kinds = {
        Instruction: common | {"instruction": "Add a hat.", "provenance": {"tokens": 3}},
        Judgement: common | scores | {"assertions": [{"text": "x", "verdict": "minor", "change": None}]},
        HumanVerdict: common | {"annotator": "x", "severity": "P1", "rows": [1, 4], "remark": "no"},
    }
    kind = random.choice(list(kinds))
    (folder / "x.jsonl").write_bytes(mutated_json(random, kinds[kind]) + b"\n" + mutated_json(random, kinds[kind]))
    attempt(read_records, folder / "x.jsonl", kind)
    answer = {"task": "t1", "annotator": "x", "severity": "P1", "rows": [1, 4], "remark": "no"}
    (folder / "answers.jsonl").write_bytes(b"\n".join(mutated_json(random, answer) for _ in range(3)))
    if answers := attempt(read_answers, folder / "answers.jsonl"):
        attempt(import_answers, answers, Key("00" * 16, {"t1": ("b", "a", "m")}))
    key = Key("00" * 16, {})
    key = Key(key.secret, {key.task("b", "a", "m"): ("b", "a", "m")})
    key.write(folder / "key.json")
    (folder / "key.json").write_bytes(mutated_json(random, json.loads((folder / "key.json").read_bytes())))
    attempt(Key.read, folder / "key.json")


class _Pairs:
    """Of a benchmark, what ground truth is compared with."""

    fingerprint, ids = "y", ["a"]

    def __len__(self):
        return 1

    def key(self, i):
        return "k"


def _truths(random: Random, folder: Path, attempt: Attempt) -> None:
    changes = {"a": TABLE_6.model_dump(exclude_none=True)}
    content = {"changes": changes, "hash": truth_hash(changes), "fingerprint": "x", "pairs": {"a": "k"}}
    changed = mutated_json(random, content)
    if random.random() < 0.5:
        try:
            value = json.loads(changed)
            changed = json.dumps(value | {"hash": truth_hash(value["changes"])}).encode()
        except (ValueError, TypeError, KeyError):
            pass
    (folder / "truth.json").write_bytes(changed)
    attempt(read_ground_truth, folder / "truth.json", _Pairs())
    proposal = {"id": "a", "changes": changes["a"], "support": {"P1": ["m"]}, "dropped": []}
    (folder / "proposals.jsonl").write_bytes(mutated_json(random, proposal))
    attempt(read_proposals, folder / "proposals.jsonl")
    described = {"primary": ["a hat"], "secondary": [], "overall": "a hat"}
    attempt(read_description, mutated_json(random, described).decode("utf-8", "replace"))
    merged = {"primary": [{"text": "a hat", "from": ["M1.1"]}], "secondary": [], "dropped": [], "overall": "a hat"}
    attempt(read_merged, mutated_json(random, merged).decode("utf-8", "replace"), {"M1.1": "a hat"})


REPLY_READERS = [
    Reader("judges", _judges, 2),
    Reader("endpoints", _endpoints, 2),
    Reader("rows", _rows, 1),
    Reader("truths", _truths, 1),
]
