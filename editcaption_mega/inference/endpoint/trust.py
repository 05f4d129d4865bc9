"""When an endpoint as a whole is given up: requests that fail, or answers of no use, one after the other."""

from editcaption_mega.words import one_line

from .outcome import Outcome

_FAILED = 50  # requests that failed in a row: then it is the endpoint and not the requests
_UNUSABLE = 20  # first answers in a row that are of no use: then it is the model and not the requests
_SHOWN = 200  # characters of such an answer


class Trust:
    """`ended` and `answered` say in words why to give up, "" for no reason to."""

    def __init__(self) -> None:
        self.answers_in_form = False  # whether there is a usable answer, of now or kept
        self._failed = self._unusable = 0  # in a row

    def ended(self, outcome: Outcome) -> str:
        """A request has ended so, after all of its attempts."""
        if outcome.sent:
            self._failed = self._failed + 1 if outcome.status == "failed" else 0
        if self._failed < _FAILED:
            return ""
        return (
            f"failed {_FAILED} requests in a row, the last with: {outcome.reason}; what it answered before is kept, a "
            "later run asks for the rest"
        )

    def answered(self, outcome: Outcome, *, first: bool, known: bool) -> str:
        """An attempt has ended so. first: of its request; only these count, so a few requests that never succeed stop
        nothing. known: an earlier run got no usable answer either; these count only while nothing else does."""
        if outcome.status == "failed":
            return ""
        if not outcome.unusable:
            self._unusable, self.answers_in_form = 0, True
        elif first and not (known and self.answers_in_form):
            self._unusable += 1
        if self._unusable < _UNUSABLE:
            return ""
        begins = one_line((outcome.text or outcome.thought)[:_SHOWN])
        return (
            f"answered {_UNUSABLE} requests in a row and none in a form that is of use, the last: {outcome.reason}"
            f"{f' (it begins {begins!r})' if begins else ''}; what it answered before is kept"
        )
