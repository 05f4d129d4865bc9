"""What a step was for and did not come about, though the command went through."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from editcaption_mega.evaluation.engines import GIVEN_MEND, NOT_GIVEN
from editcaption_mega.evaluation.execution.execute import COPY, Execution
from editcaption_mega.records import Judgement

from .generation import Texts

_AGAIN = "mend the cause and give the same command again, which asks for these"
_REFUSED = "refusals are kept, so change the prompt or the model and name a new output"


@dataclass(frozen=True)
class Failure:
    """One sentence, and how to mend it."""

    sentence: str
    mend: str


def without_success(
    texts: Mapping[str, Texts],
    judgements: Iterable[Judgement] = (),
    executions: Mapping[str, Mapping[str, Sequence[Execution]]] | None = None,
) -> list[Failure]:
    """One for each model that wrote nothing for a benchmark, each judge that scored nothing, and each model of which
    the editor executed nothing."""
    return [*_unwritten(texts), *_unscored(texts, judgements), *_unexecuted(texts, executions or {})]


def _unwritten(texts: Mapping[str, Texts]) -> Iterable[Failure]:
    for benchmark, by_model in texts.items():
        for model, by_id in by_model.items():
            reasons = [one.reason for one in by_id.values() if one.reason is not None]
            if len(reasons) == len(by_id):
                mend = GIVEN_MEND if reasons[0].startswith(NOT_GIVEN) else _mend(reasons)
                yield Failure(f"{model} wrote no instruction for {benchmark} ({reasons[0]})", mend)


def _unscored(texts: Mapping[str, Texts], judgements: Iterable[Judgement]) -> Iterable[Failure]:
    by_judge: dict[str, list[Judgement]] = {}
    for one in judgements:
        if texts[one.benchmark][one.model][one.id].instruction is not None:
            by_judge.setdefault(one.judge, []).append(one)
    for judge, made in by_judge.items():
        if not any(one.scores for one in made):
            reasons = [next(iter(one.unscored.values())) for one in made]
            yield Failure(f"judge {judge} scored nothing ({reasons[0]})", _mend(reasons))


def _unexecuted(
    texts: Mapping[str, Texts], executions: Mapping[str, Mapping[str, Sequence[Execution]]]
) -> Iterable[Failure]:
    for benchmark, by_model in executions.items():
        for model, made in by_model.items():
            tried = [one for one in made if model == COPY or texts[benchmark][model][one.id].instruction is not None]
            if tried and all(one.measures is None for one in tried):
                sentence = f"no instruction of {model} for {benchmark} was executed ({tried[0].reason})"
                yield Failure(sentence, _AGAIN)


def _mend(reasons: Sequence[str]) -> str:
    refused = [reason.startswith("refused:") for reason in reasons]
    return _REFUSED if all(refused) else f"{_AGAIN}, but refusals are kept" if any(refused) else _AGAIN
