"""Table 6 of the paper as a ground truth, and replies about it as a judge would write them."""

import json

from editcaption_mega.evaluation.judge_reply import parse_reply
from editcaption_mega.evaluation.judge_scores import score_reply
from editcaption_mega.records import Changes

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
