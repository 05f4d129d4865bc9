"""Annotations of pair tasks as Label Studio's own form files them, made from answers, and what must come back."""

from tests.helpers.people_tasks import EVIL


def choices(name, *values):
    return {"from_name": name, "to_name": "draft", "type": "choices", "value": {"choices": list(values)}}


def area(name, text):
    return {"from_name": name, "to_name": "draft", "type": "textarea", "value": {"text": [text]}}


def units(text, characters):
    """Characters in the 16-bit units that browsers count."""
    return len(text[:characters].encode("utf-16-le")) // 2


def annotation(row, draft, lead_time=4.0):
    """row: an answer as a line of JSONL would hold it."""
    results = [area("text", row.get("text", draft)), choices("verdict", row["verdict"])]
    if tags := row.get("tags"):
        results.append(choices("primary", tags[0]))
        if tags[1:]:
            results.append(choices("tags", *tags[1:]))
    if severity := row.get("severity"):
        results.append(choices("severity", *([severity] if isinstance(severity, str) else severity)))
    for number, span in enumerate(row.get("spans", [])):
        value = {"start": units(draft, span["start"]), "end": units(draft, span["end"]), "labels": [span["tag"]]}
        value["text"] = draft[span["start"] : span["end"]]
        results.append({"from_name": "spans", "to_name": "draft", "type": "labels", "id": f"s{number}", "value": value})
    if remark := row.get("remark"):
        results.append(area("remark", remark))
    return {"result": results, "lead_time": lead_time}


def varied_rows(study, answer, bare):
    """An answer for each task of the study, of every kind, none of which is refused."""
    other = "detail"
    rows = []
    for at in range(len(study.names)):
        draft = study.tasks[study.names[at]].text
        kind = at % 5
        if kind == 3:
            rows.append(bare(study, at, "already_correct", "user-1"))
        elif kind == 4:
            rows.append(bare(study, at, "unusable", "user-1", remark="Both pictures are <b>the same</b>."))
        else:
            row = answer(study, at, "user-1", seconds=None, time=None)
            if kind == 1:
                row["tags"] = [row["tags"][0], other]
            if kind == 2 or draft == EVIL:
                start = draft.index("slightly" if draft == EVIL else "left")
                row["spans"] = [{"start": start, "end": len(draft) - 1, "tag": row["tags"][0]}]
            if study.form == "preference":
                row["severity"] = ("P0", "P1", "P2")[at % 3]
            rows.append(row)
    return rows
