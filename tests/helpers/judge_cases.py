"""Table 6 of the paper as a ground truth, replies about it as a judge would write them, and a judge for the scripted
server that knows the synthetic world.

    python -m tests.helpers.judge_cases SHARDS URL CACHE OUTPUT     one judge run, for tests that kill it
"""

import json
import re
import sys
from pathlib import Path

from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, parse, render_pair
from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.judge import rule_judge
from editcaption_mega.evaluation.judge.model_judge import judge_benchmark
from editcaption_mega.evaluation.judge.perturbations import perturbations
from editcaption_mega.evaluation.judge.reply import parse_reply
from editcaption_mega.evaluation.judge.reply_scores import score_reply
from editcaption_mega.evaluation.record_files import write_records
from editcaption_mega.records import Change, Changes
from editcaption_mega.settings import EndpointSettings, JudgeSettings

TABLE_6 = Changes.model_validate(
    {
        "primary": [
            {"id": "p1", "text": "The dress color changes from grey to pink."},
            {"id": "p2", "text": "The shoulder strap style changes from wide straps to thin spaghetti straps."},
            {"id": "p3", "text": "The dress hem length is shortened from midi-length to a mini skirt."},
        ],
        "secondary": [{"id": "s1", "text": "The gold necklace is replaced with a thin silver necklace."}],
        "overall": "The woman wears a pink spaghetti-strap mini dress and a thin silver necklace.",
    }
)


def accuracy_reply(*assertions, score=5, **fields):
    """assertions: (verdict, change id or None), or with a text before them."""
    rows = [("it", *one) if len(one) == 2 else one for one in assertions]
    rows = [{"text": text, "verdict": verdict, "change": change} for text, verdict, change in rows]
    return json.dumps({"dimension": "accuracy", "assertions": rows, "score": score, "reasoning": "..", **fields})


def completeness_reply(hits, secondary=(), score=5, reasoning="..", primary=("p1", "p2", "p3"), **fields):
    rows = [{"id": one, "label": "HIT" if one in hits else "MISS"} for one in primary]
    return json.dumps(
        {"dimension": "completeness", "changes": rows, "secondary_hits": list(secondary), "score": score}
        | {"reasoning": reasoning, **fields}
    )


def clarity_reply(terms=(), points=5, score=5.0, **fields):
    return json.dumps(
        {"dimension": "clarity", "forbidden_terms": list(terms), "information_points": points, "score": score}
        | {"reasoning": "..", **fields}
    )


def scored(reply, truth=TABLE_6, text="", **options):
    """What code makes of a reply's text."""
    dimension = json.loads(reply)["dimension"]
    return score_reply(parse_reply(reply, dimension, truth).reply, truth, text, **options)


def write_synthetic(folder, count, seed=3):
    """Shards of `count` small synthetic pairs."""
    world = WorldSettings(canvas_size=48, supersampling=1)
    with ShardWriter(folder) as writer:
        for index in range(count):
            pair = render_pair(world, seed, index)
            writer.add(pair.pair, encode_png(pair.source), "png", encode_png(pair.target), "png")
    return folder


def texts_of(body):
    """All texts of a request's messages, joined."""
    return "\n".join(part["text"] for m in body["messages"] for part in _parts(m) if part["type"] == "text")


def _parts(message):
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def rule_reply(body):
    """A judge model that reads the truth in the prompt and labels as the rule judge does; its own scores are all 4."""
    text = texts_of(body)
    dimension = re.search(r'\{"dimension":"(\w+)"', text)[1]
    primary, secondary = (
        [(name, json.loads(words)) for name, words in re.findall(r"^\[(\w+)\] (.+)$", part, re.MULTILINE)]
        for part in re.search(r"Primary changes:\n(.*?)\nSecondary changes:\n(.*?)\nOverall:", text, re.DOTALL).groups()
    )
    truth = Changes(
        primary=[Change(id=one, text=words, facts=parse(words)[0]) for one, words in primary],
        secondary=[Change(id=one, text=words) for one, words in secondary],
        overall="a change",
    )
    instruction = json.loads(re.search(r'as a JSON string:\n(".*")$', text, re.MULTILINE)[1])
    found = rule_judge.judge(instruction, truth)
    if dimension == "accuracy":
        labels = [(one.text, one.verdict, one.change) for one in rule_judge.assertions(instruction, truth)]
        reply = accuracy_reply(*labels, score=4)
    elif dimension == "completeness":
        reply = completeness_reply(found.hits, primary=[one for one, _ in primary], score=4)
    else:
        reply = clarity_reply(found.forbidden, score=found.clarity)
    return f"Step 1: ..\n{reply}"


def judge_run(shards, url, cache, output):
    """One whole run: five "models", two repeats, rows in one file."""
    benchmark = Benchmark("synthetic", shards)
    endpoint = EndpointSettings(url, "judge", max_concurrency=8, max_attempts=4, timeout=5)
    judge = JudgeSettings("scripted", endpoint=endpoint, repeats=2)
    rows = judge_benchmark(benchmark, perturbations(benchmark), judge, Path(cache))
    write_records(output, [row for own in rows.values() for row in own])


if __name__ == "__main__":
    judge_run(*sys.argv[1:])
