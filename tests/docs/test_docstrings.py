"""Every public name of the modules that other people import says what it is."""

import importlib
import inspect
import pkgutil
import types

import pytest

import editcaption_mega

# Promised in docs/architecture.md, and what their arguments are made of.
MODULES = (
    "kernels",
    "objectives",
    "evaluation.rubric",
    "data",
    "records",
    "settings",
    "training",
    "inference",
    "conversion",
    "platform",
)


def public_names(module: types.ModuleType) -> dict[str, object]:
    """What `__all__` lists, or else what the module itself defines."""
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith(module.__name__)
    ]
    return {name: getattr(module, name) for name in names}


def without_docstring(name: str, value: object) -> list[str]:
    """The name itself, and the public functions and properties of a class, where they say nothing.

    `validate` of settings is the same everywhere: it raises SettingsError with the mend."""
    if not inspect.isclass(value) and not inspect.isfunction(value):
        return []
    silent = [] if _says_something(value) or (inspect.isfunction(value) and _is_plain(value)) else [name]
    if inspect.isclass(value):
        for member, own in vars(value).items():
            own = own.__func__ if isinstance(own, classmethod | staticmethod) else own
            if (
                member.startswith("_")
                or member == "validate"
                or not (inspect.isfunction(own) or isinstance(own, property))
            ):
                continue
            inherited = any(_says_something(getattr(base, member, None)) for base in value.__mro__[1:])
            if not _says_something(own) and not inherited and not _is_plain(own):
                silent.append(f"{name}.{member}")
    return silent


def _says_something(value: object) -> bool:
    doc = getattr(value, "__doc__", None) or ""
    made = inspect.isclass(value) and doc.startswith(f"{value.__name__}(")  # by dataclasses and NamedTuple
    return bool(doc.strip()) and not made and doc not in (object.__doc__, type.__doc__)


def _is_plain(own: object) -> bool:
    """A function of at most three lines, whose name and types say all."""
    function = own.fget if isinstance(own, property) else own
    return len(inspect.getsource(function).splitlines()) <= 3


@pytest.mark.parametrize("module", MODULES)
def test_public_names_say_what_they_are(module):
    found = importlib.import_module(f"editcaption_mega.{module}")
    assert _says_something(found), f"{module} has no docstring"
    names = public_names(found)
    assert [line for name, value in names.items() for line in without_docstring(f"{module}.{name}", value)] == []


def test_every_module_says_what_it_is():
    silent = []
    for info in pkgutil.walk_packages(editcaption_mega.__path__, "editcaption_mega."):
        spec = info.module_finder.find_spec(info.name, None)
        if spec.origin.endswith(".py"):
            with open(spec.origin, encoding="utf-8") as file:
                text = file.read().lstrip()
            if text and not text.startswith(('"""', "# ", "#!")):
                silent.append(info.name)
    assert silent == []


def test_the_checker_sees():
    class Silent:
        def method(self, a):
            if a:
                return 1
            return 2

        def told(self):
            """Something."""

    def spoken(a):
        """Something."""
        if a:
            return 1
        return 2

    assert without_docstring("Silent", Silent) == ["Silent", "Silent.method"]
    assert without_docstring("spoken", spoken) == []
