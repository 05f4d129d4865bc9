"""Names that a package imports when they are asked for."""

import sys
from importlib import import_module

import pytest


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/__init__.py").write_text(
        "from editcaption_mega.lazy_names import lazy_names\n__getattr__ = lazy_names(__name__, {'apple': '.fruit'})\n"
    )
    (tmp_path / "shop/fruit.py").write_text("apple, pear = 'red', 'green'\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield import_module("shop")
    for name in ("shop", "shop.fruit"):
        sys.modules.pop(name, None)


def test_a_module_is_imported_with_its_first_name(package):
    assert "shop.fruit" not in sys.modules
    assert package.apple == "red" and "shop.fruit" in sys.modules


def test_other_names_are_none_of_the_package(package):
    with pytest.raises(AttributeError, match="module 'shop' has no attribute 'pear'"):
        _ = package.pear
    assert "shop.fruit" not in sys.modules
