"""The linter: what of an instruction's faults its words alone show, in English and Chinese."""

from .chinese import chinese_clauses
from .clause_rules import clause_findings
from .clauses import hide_quotes, is_chinese
from .english import english_clauses
from .findings import Finding
from .left_and_right import direction_findings, unswapped_sides
from .wording import wording_findings

LONGEST = 10_000  # characters that are read: what no instruction has, and what keeps a hostile text from taking long


def lint(text: str, mirrored: str | None = None) -> list[Finding]:
    """The findings on one instruction, in the order of the text; what stands in quotation marks is not read.

    mirrored: the instruction of the same pair with both pictures flipped, for the rule `mirror`. A pure function of
    word lists: it does not see the pictures, so no finding is no proof. Of a longer text the first LONGEST characters
    are read."""
    hidden = readable(text[:LONGEST])
    clauses = english_clauses(hidden)
    if is_chinese(hidden):
        clauses = sorted([*clauses, *chinese_clauses(hidden)], key=lambda clause: clause.span)
    findings = [*clause_findings(clauses, text), *direction_findings(hidden), *wording_findings(hidden)]
    if mirrored is not None:
        findings += [
            Finding("mirror", (0, len(text)), problem, "left and right must change places, all else stay")
            for problem in unswapped_sides(hidden, readable(mirrored[:LONGEST]))
        ]
    return sorted(dict.fromkeys(findings), key=lambda finding: finding.span)


def rules_broken(text: str, mirrored: str | None = None) -> list[str]:
    """The names of the rules with a finding, each once, in the order of the text."""
    return list(dict.fromkeys(finding.rule for finding in lint(text, mirrored)))


def readable(text: str) -> str:
    """Lower case, quotes hidden, letter by letter as long as the text, so that places stay."""
    lowered = "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)
    return hide_quotes(lowered)
