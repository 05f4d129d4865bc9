"""The house's limits, read from the source: sizes, parameters, one name for one thing, American spelling.

Each exception stands in a list here, with its reason; a name that no longer needs its exception fails too.
"""

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("editcaption_mega", "tools", "launch")
COMMANDS = "editcaption_mega/commands/"
BY_ANOTHER_NAME = (COMMANDS, "editcaption_mega/interface.py")  # called like what they call
MOST_LINES = 350
MOST_FUNCTION_LINES = 60
MOST_PARAMETERS = 8
_REASON = re.compile(r"\b(one function|in one piece|as long as|because|since)\b", re.IGNORECASE)

# Functions of many parameters -> why.
_OPERATOR = "torch.library takes flat schemas alone, and the public name hands them on"
_PROMISED = "its name and parameters are promised to other people's code"
WIDE = {
    "editcaption_mega/kernels/library_linear.py: linear_log_probs_op": _OPERATOR,
    "editcaption_mega/kernels/library_logits.py: log_probs_op": _OPERATOR,
    "editcaption_mega/kernels/operators.py: linear_log_probs": _OPERATOR,
    "editcaption_mega/kernels/operators.py: linear_preference": _OPERATOR,
    "editcaption_mega/kernels/operators.py: preference": _OPERATOR,
    "editcaption_mega/objectives/dpo.py: preference_loss": _PROMISED,
}
# Names of two things -> why.
_IMPORTER = "every importer has the same two functions"
TWICE = {
    "read": _IMPORTER,
    "count": _IMPORTER,
    "main": "a program's",
    "prepare": "a process for Megatron-Core, a job for its steps",
}
# Names of two files -> why.
_STAGE = "a stage's settings bear the name of what they set"
MODULES_TWICE = {
    "checks": "what the arguments of a room's functions must be",
    "dpo": _STAGE,
    "evaluation": _STAGE,
    "held_out": _STAGE,
    "job": _STAGE,
}
# Words that are not ours -> whose.
SPELLED_BY_OTHERS = {"editcaption_mega/inference/endpoint/request_loop.py: cancelled": "asyncio's"}

BRITISH = re.compile(
    r"colour|grey|normalis|optimis|initialis|serialis|tokenis|quantis|labell|cancell|behaviour|neighbour|centre|"
    r"modell|licence|favour|flavour|summaris|organis|recognis|analyse|catalogue|travell",
    re.IGNORECASE,
)


@cache
def trees() -> dict[str, ast.Module]:
    """Path from the root -> the parsed file; an empty place would pass every check, so none may be."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 150
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in files}


def functions(tree: ast.AST):
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def exceptions_used(found: set[str], allowed) -> None:
    """Everything that breaks a limit is in its list, and nothing else is."""
    assert sorted(found - set(allowed)) == [], "beyond the limit, and in no list of exceptions"
    assert sorted(set(allowed) - found) == [], "an exception that nothing needs any more"


def test_a_file_is_read_in_one_sitting():
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".sh")]
    long = {str(path.relative_to(ROOT)) for path in files if len(path.read_text("utf-8").splitlines()) > MOST_LINES}
    exceptions_used(long, ())


def test_a_long_function_says_why():
    long = set()
    for path, tree in trees().items():
        for node in functions(tree):
            lines = node.end_lineno - node.lineno + 1
            if lines > MOST_FUNCTION_LINES and not _REASON.search(ast.get_docstring(node) or ""):
                long.add(f"{path}: {node.name}")
    exceptions_used(long, ())


def parameters_of(node) -> int:
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len([one for one in every if one.arg not in ("self", "cls")])


def test_a_public_function_has_few_parameters():
    wide = set()
    for path, tree in trees().items():
        for node in functions(tree):
            if not node.name.startswith("_") and parameters_of(node) > MOST_PARAMETERS:
                wide.add(f"{path}: {node.name}")
    exceptions_used(wide, WIDE)


def test_a_public_name_means_one_thing():
    """Of classes and functions at the top of the package's files, but for those that stand for others."""
    places = defaultdict(set)
    for path, tree in trees().items():
        if path.startswith("editcaption_mega/") and not path.startswith(BY_ANOTHER_NAME):
            for node in tree.body:
                if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
                    places[node.name].add(path)
    exceptions_used({name for name, paths in places.items() if len(paths) > 1}, TWICE)


def test_a_module_name_means_one_file():
    """Beside those of commands, which bear their command's name."""
    names = defaultdict(set)
    for path in trees():
        stem = Path(path).stem
        if (
            path.startswith("editcaption_mega/")
            and not path.startswith(COMMANDS)
            and stem not in ("__init__", "__main__")
        ):
            names[stem].add(path)
    exceptions_used({name for name, paths in names.items() if len(paths) > 1}, MODULES_TWICE)


def identifiers(tree: ast.AST):
    for node in ast.walk(tree):
        for field in ("name", "id", "attr", "arg", "asname"):
            if isinstance(name := getattr(node, field, None), str):
                yield name


@pytest.mark.parametrize("folder", FOLDERS[:2])
def test_names_are_spelled_in_american_english(folder):
    wrong = set()
    for path, tree in trees().items():
        # The synthetic world's words are data: its names are those of its pairs.
        if path.startswith(folder) and not path.startswith("editcaption_mega/data/synthetic/"):
            wrong |= {f"{path}: {name}" for name in identifiers(tree) if BRITISH.search(name)}
    exceptions_used(wrong, SPELLED_BY_OTHERS if folder == "editcaption_mega" else ())
