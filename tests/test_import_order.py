"""Each room of the package imports only from the rooms above it, and never what its row of the table forbids.

Inside a room the files and folders stand on floors, each importing from lower ones alone: no circle, and few floors.
Imports are read from the syntax tree, those inside functions included; nothing is imported.
"""

import ast
from pathlib import Path

import pytest

from tests.helpers import ROOT

PACKAGE = "editcaption_mega"
ROOMS = (
    "platform",
    "settings",
    "records",
    "data",
    "kernels",
    "model",
    "conversion",
    "objectives",
    "training",
    "inference",
    "evaluation",
    "curation",
    "planning",
    "launching",
    "commands",
)
# What a room never knows, beyond the order: rooms above it that it must not use, and libraries.
FORBIDDEN_ROOMS = {
    "inference": {"training"},
    "curation": {"training"},
    "evaluation": {"training"},
    "conversion": {"training"},
    "launching": set(ROOMS) - {"launching"},
}
FORBIDDEN_LIBRARIES = {
    "platform": {"transformers"},
    "settings": {"torch", "megatron", "transformers"},
    "records": {"torch", "megatron", "transformers", "os", "pathlib", "io", "shutil", "tempfile", "glob", "tarfile"},
    "data": {"megatron"},
    "kernels": {"megatron", "transformers"},
    "model": {"webdataset", "PIL"},
    "inference": {"megatron"},
    "curation": {"megatron"},
    "evaluation": {"megatron"},
}
FORBIDDEN_CALLS = {"records": {"open"}}
MOST_FLOORS = 5  # of any room or folder in it
MOST_ARROWS = {"evaluation": 40}  # between the files and folders of a room
# Files of the package's root, and whether rooms may import them; `cli` and what is like it serve the commands alone.
ROOT_MODULES = {
    "__main__": False,
    "array_tasks": False,
    "cli": False,
    "disk_file": True,
    "files": True,
    "launcher": False,
    "lazy_names": True,
    "lock": True,
    "interface": False,
    "job_outcome": True,
    "phases": True,
    "process_pool": True,
    "progress": True,
    "progress_display": False,
    "rank_log": True,
    "signals": True,
    "train": False,
    "words": True,
}


def imported_names(tree: ast.AST, module: tuple[str, ...], is_package: bool) -> list[tuple[int, tuple[str, ...]]]:
    """(line, dotted name as a tuple) for each import; `from a import b` gives a.b, since b may be a module."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, tuple(alias.name.split("."))) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base: tuple[str, ...] = ()
            if node.level:
                base = module if is_package else module[:-1]
                base = base[: len(base) - node.level + 1]
            base += tuple(node.module.split(".")) if node.module else ()
            found += [(node.lineno, (*base, alias.name)) for alias in node.names]
        elif isinstance(node, ast.Call) and _call_name(node.func) in ("import_module", "__import__") and node.args:
            if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                found.append((node.lineno, tuple(node.args[0].value.split("."))))
    return found


def _call_name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def violations(root: Path) -> list[str]:
    """One line for each import or call that the house's order forbids in root/editcaption_mega."""
    wrong = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        module = path.relative_to(root).with_suffix("").parts
        is_package = module[-1] == "__init__"
        module = module[:-1] if is_package else module
        room = module[1] if len(module) > 1 else None
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        where = path.relative_to(root)
        in_room = room in ROOMS
        if room is not None and not in_room and room not in ROOT_MODULES:
            wrong.append(f"{where}: {room} is in no room of the house")
            continue
        for line, name in imported_names(tree, module, is_package):
            problem = _problem(room, name) if in_room else _root_problem(room, name)
            if problem:
                wrong.append(f"{where}:{line}: {problem}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id in FORBIDDEN_CALLS.get(room, ()):
                    wrong.append(f"{where}:{node.lineno}: {room} never calls {node.func.id}()")
    return wrong


def rooms_inside(root: Path) -> dict[str, dict[str, set[str]]]:
    """Each folder of the package, dotted and without the package's name -> each file and folder in it -> which of the
    others it imports; a folder's __init__ stands for the folder as a whole and is left out."""
    modules = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        module = path.relative_to(root).with_suffix("").parts
        modules[module[:-1] if module[-1] == "__init__" else module] = path
    inside: dict[str, dict[str, set[str]]] = {}
    for module, path in modules.items():
        if len(module) < 3:
            continue
        is_package = path.name == "__init__.py"
        names = {name for _, name in imported_names(ast.parse(path.read_text("utf-8")), module, is_package)}
        names = {name if name in modules else name[:-1] for name in names}
        for depth in range(2, len(module)):
            room = module[:depth]
            boxes = inside.setdefault(".".join(room[1:]), {})
            others = {name[depth] for name in names if name[:depth] == room and len(name) > depth and name in modules}
            boxes.setdefault(module[depth], set()).update(others - {module[depth]})
    return inside


def floors(boxes: dict[str, set[str]]) -> list[set[str]]:
    """The boxes from those that import no other box upwards. Raises ValueError with the boxes of a circle."""
    built: list[set[str]] = []
    rest = set(boxes)
    while rest:
        floor = {box for box in rest if not boxes[box] & rest}
        if not floor:
            raise ValueError(f"a circle among {sorted(rest)}")
        built.append(floor)
        rest -= floor
    return built


def _problem(room: str, name: tuple[str, ...]) -> str | None:
    if name[0] != PACKAGE:
        return f"{room} never imports {name[0]}" if name[0] in FORBIDDEN_LIBRARIES.get(room, ()) else None
    other = name[1] if len(name) > 1 else None
    if other in ROOT_MODULES and not ROOT_MODULES[other] and room != "commands":
        return f"{room} imports {PACKAGE}.{other}, which is for the commands"
    if other not in ROOMS or other == room:
        return None
    if ROOMS.index(other) > ROOMS.index(room):
        return f"{room} imports {other}, a room below it"
    return f"{room} never imports {other}" if other in FORBIDDEN_ROOMS.get(room, ()) else None


def _root_problem(room: str | None, name: tuple[str, ...]) -> str | None:
    """The package's own __init__ imports no room: reading the version must not load PyTorch."""
    if room is None and name[0] == PACKAGE and len(name) > 1 and name[1] in ROOMS:
        return f"{PACKAGE}/__init__.py imports {name[1]}"
    return None


def test_the_house_keeps_its_order():
    assert violations(ROOT) == []


@pytest.fixture(scope="module")
def inside():
    return rooms_inside(ROOT)  # once: the whole package is parsed for it


FOLDERS = [path.parent.relative_to(ROOT / PACKAGE) for path in (ROOT / PACKAGE).rglob("__init__.py")]


@pytest.mark.parametrize("room", sorted(".".join(folder.parts) for folder in FOLDERS if folder.parts))
def test_no_circle_and_few_floors_inside_a_room(inside, room):
    boxes = inside[room]
    assert len(floors(boxes)) <= MOST_FLOORS, floors(boxes)
    arrows = sum(map(len, boxes.values()))
    assert arrows <= MOST_ARROWS.get(room, arrows), f"{room} has {arrows} arrows: {boxes}"


def test_circles_inside_a_room_are_seen(tmp_path):
    texts = {
        "data/a.py": "from .deep import x",
        "data/b.py": "import editcaption_mega.data.a",
        "data/deep/__init__.py": "",
        "data/deep/x.py": "from ..b import y",
        "data/deep/y.py": "from . import x",
    }
    for file, text in texts.items():
        path = tmp_path / PACKAGE / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    inside = rooms_inside(tmp_path)
    assert inside == {"data": {"a": {"deep"}, "b": {"a"}, "deep": {"b"}}, "data.deep": {"x": set(), "y": {"x"}}}
    assert floors(inside["data.deep"]) == [{"x"}, {"y"}]
    with pytest.raises(ValueError, match="a circle among"):
        floors(inside["data"])


def imports_megatron(path: Path) -> list[bool]:
    """For each import at the top of a file that has Megatron-Core in it: whether `platform.megatron` is."""
    tree = ast.Module([node for node in ast.parse(path.read_text("utf-8")).body], [])
    tops = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [name for node in tops for _, name in imported_names(ast.Module([node], []), (), False)]
    prepared = (PACKAGE, "platform", "megatron")
    return [name == prepared for name in names if name[0] == "megatron" or name == prepared]


def test_megatron_is_imported_without_its_remarks_whichever_file_is_the_first():
    importing = 0
    for room in ROOMS[ROOMS.index("platform") + 1 :]:
        ready = (ROOT / PACKAGE / room / "__init__.py").is_file() and any(
            imports_megatron(ROOT / PACKAGE / room / "__init__.py")
        )
        for path in sorted((ROOT / PACKAGE / room).rglob("*.py")):
            silent = imports_megatron(path)
            importing += len(silent) > 1
            assert not silent or ready or silent[0], f"{path} imports Megatron-Core before platform.megatron"
    assert importing > 10


def test_tools_do_not_import_each_other():
    """They are programs: what two of them need is in the package."""
    tools = sorted((ROOT / "tools").glob("*.py"))
    names = {path.stem for path in tools}
    assert len(names) >= 8
    for path in tools:
        imported = imported_names(ast.parse(path.read_text(encoding="utf-8")), (path.stem,), False)
        assert not [name for _, name in imported if name[0] in names | {"tools"}], path


def test_one_file_speaks_http():
    """Deadlines, limits, redirects and keys are kept in one place; a second client would keep its own."""
    speakers = {"aiohttp", "requests", "httpx", "urllib3", "http", "openai", "anthropic", "websockets"}
    speaking = {("inference", "endpoint", "transport")}
    speaking.add(("data", "remote_files"))  # fsspec fetches; it is told how long a server may be silent
    wrong = []
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        module = path.relative_to(ROOT).with_suffix("").parts
        for line, name in imported_names(ast.parse(path.read_text(encoding="utf-8")), module, False):
            asks = name[0] in speakers or name[:3] == ("urllib", "request", "urlopen") or name == ("urllib", "request")
            if asks and module[1:] not in speaking:
                wrong.append(f"{'/'.join(module)}.py:{line}: {'.'.join(name)}")
    assert wrong == []


def test_every_room_is_a_folder_of_the_list():
    folders = {path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py")}
    assert folders <= set(ROOMS), f"folders in no place of the order: {sorted(folders - set(ROOMS))}"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("data/a.py", "from editcaption_mega.model import x", "data imports model, a room below it"),
        ("data/a.py", "import editcaption_mega.model.vision as v", "data imports model, a room below it"),
        ("data/a.py", "from ..model import x", "data imports model, a room below it"),
        ("data/a.py", "from .. import model", "data imports model, a room below it"),
        ("data/__init__.py", "from ..model import x", "data imports model, a room below it"),
        ("data/deep/a.py", "from ...model import x", "data imports model, a room below it"),
        ("data/a.py", "def f():\n    from editcaption_mega import model", "data imports model, a room below it"),
        ("data/a.py", "if TYPE_CHECKING:\n    from ..model import x", "data imports model, a room below it"),
        ("data/a.py", "importlib.import_module('editcaption_mega.model')", "data imports model, a room below it"),
        ("settings/a.py", "def f():\n    import torch.nn", "settings never imports torch"),
        ("settings/a.py", "from ..records import x", "settings imports records, a room below it"),
        ("records/a.py", "def f():\n    return open('x')", "records never calls open()"),
        ("records/a.py", "from pathlib import Path", "records never imports pathlib"),
        ("kernels/a.py", "from megatron.core import x", "kernels never imports megatron"),
        ("inference/a.py", "from ..training import x", "inference never imports training"),
        ("evaluation/a.py", "import editcaption_mega.training", "evaluation never imports training"),
        ("model/a.py", "from ..cli import main", "model imports editcaption_mega.cli, which is for the commands"),
        ("__init__.py", "from .kernels import log_probs", "__init__.py imports kernels"),
        ("attic/a.py", "x = 1", "attic is in no room of the house"),
        ("helper.py", "x = 1", "helper is in no room of the house"),
    ],
)
def test_the_checker_sees(tmp_path, file, text, message):
    path = tmp_path / PACKAGE / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    found = violations(tmp_path)
    assert len(found) == 1 and message in found[0], found


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("model/a.py", "from ..data import x\nfrom . import b\nfrom .b import c\nimport torch, megatron.core"),
        ("training/a.py", "from editcaption_mega.objectives.sft import y\nfrom editcaption_mega import __version__"),
        ("evaluation/a.py", "from ..inference import Generator\nopen('x')"),
        ("planning/a.py", "from ..model import x"),
        ("cli.py", "from .records import x"),
        ("__init__.py", "__version__ = '1'"),
    ],
)
def test_the_checker_lets_pass(tmp_path, file, text):
    path = tmp_path / PACKAGE / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    assert violations(tmp_path) == []
