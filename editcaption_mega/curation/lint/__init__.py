"""Faults of instructions that their words show: a linter for English and Chinese."""

from .findings import RULES, Finding
from .linter import lint, rules_broken

__all__ = ["RULES", "Finding", "lint", "rules_broken"]
