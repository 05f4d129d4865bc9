"""What people are asked: the two forms, in the words that every tool shows."""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

import yaml

FORMS = ("refine", "preference")
AnswerVerdict = Literal["corrected", "already_correct", "unusable"]
ANSWER_VERDICTS: tuple[AnswerVerdict, ...] = get_args(AnswerVerdict)


@dataclass(frozen=True)
class PeopleForm:
    """A form: its question, and the meaning of each verdict, tag (objective or failure mode) and severity."""

    form: str
    title: str
    question: str
    verdicts: dict[str, str]
    tags_title: str
    tags: dict[str, str]
    severities: dict[str, str]  # none: a refined draft has no severity

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@cache
def people_form(name: str) -> PeopleForm:
    """Raises ValueError for a form that there is not."""
    if name not in FORMS:
        raise ValueError(f"there is no form {name!r} for people, only {' and '.join(FORMS)}")
    text = resources.files("editcaption_mega.curation.people").joinpath(f"forms/{name}.yaml").read_text("utf-8")
    return PeopleForm(form=name, **yaml.safe_load(text))
