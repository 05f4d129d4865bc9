"""The paper's rubric as plain functions.

    python examples/score_an_instruction.py

A judge, a person or a program says what an instruction mentions; the rubric says what that costs. The ground truth is
the paper's table 6: a dress that becomes pink, thin-strapped and short (primary), and another necklace (secondary)."""

from editcaption_mega.evaluation.rubric import (
    accuracy_score,
    clarity_ceiling,
    completeness_score,
    forbidden_terms,
    weighted_score,
)

PRIMARY_CHANGES = 3
# instruction -> primary changes mentioned, secondary ones mentioned, major errors
SEEN = {
    "Change the dress to a pink spaghetti-strap mini dress, and the necklace to a thin silver chain.": (3, 1, 0),
    "Change the dress to pink and shorten it to a mini dress.": (2, 0, 0),
    "Change the dress to blue.": (1, 0, 1),
    "Slightly adjust that dress.": (1, 0, 1),
}


def main() -> None:
    for instruction, (hits, secondary, errors) in SEEN.items():
        accuracy = accuracy_score(hits, PRIMARY_CHANGES, major_errors=errors)
        completeness = completeness_score(hits, PRIMARY_CHANGES, secondary)
        clarity = clarity_ceiling(instruction)  # the highest that its words allow
        score = weighted_score(accuracy, completeness, clarity)
        terms = ", ".join(forbidden_terms(instruction)) or "none"
        print(f"{score:.2f}  accuracy {accuracy}, completeness {completeness}, clarity {clarity}  {instruction}")
        print(f"      forbidden terms: {terms}")


if __name__ == "__main__":
    main()
