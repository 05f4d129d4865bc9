"""A real Label Studio on loopback. EDITCAPTION_LABEL_STUDIO is the path of its `label-studio` executable, in an
environment of its own (it is 1 GB)."""

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.scripted_label_studio import LEGACY_TOKEN


@contextmanager
def real_label_studio(root: Path) -> Iterator[tuple[str, Path]]:
    """(url, document root) of a server on a free port, its data in the folder. Skips the test where there is none."""
    command = shutil.which(os.environ.get("EDITCAPTION_LABEL_STUDIO", ""))
    if command is None:
        pytest.skip("EDITCAPTION_LABEL_STUDIO does not name a label-studio executable")
    root = root.resolve()
    (root / "data").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(root / "data"),
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(root),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LATEST_VERSION_CHECK": "false", "COLLECT_ANALYTICS": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "",
    }  # fmt: skip
    start = [command, "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
    start += ["--username", "judge@example.com", "--password", "a-scratch-password", "--user-token", LEGACY_TOKEN]
    with open(root / "log.txt", "wb") as log:
        process = subprocess.Popen(start, env=os.environ | settings, stdout=log, stderr=log, cwd=root)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, root / "log.txt")
        yield f"http://127.0.0.1:{port}", root
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(address: str, process: subprocess.Popen, log: Path, seconds: float = 900) -> None:
    """The first start migrates its database, which takes minutes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(2)
    raise AssertionError(f"Label Studio did not start: {log.read_text('utf-8', 'replace')[-2000:]}")
