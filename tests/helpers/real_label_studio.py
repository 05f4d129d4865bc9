"""A real Label Studio on loopback. EDITCAPTION_LABEL_STUDIO is the path of its `label-studio` executable, in an
environment of its own (it is 1 GB)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from editcaption_mega.evaluation.label_studio.local_server import PROGRAM, installed_program, local_server
from tests.helpers.scripted_label_studio import LEGACY_TOKEN


@contextmanager
def real_label_studio(root: Path) -> Iterator[tuple[str, Path]]:
    """(url, document root) of a server on a free port, its data in the folder. Skips the test where there is none."""
    if not os.environ.get(PROGRAM):
        pytest.skip(f"{PROGRAM} does not name a label-studio executable")
    root = root.resolve()
    (root / "token").write_text(LEGACY_TOKEN)
    with local_server(installed_program(), root) as server:
        yield server.url, root
