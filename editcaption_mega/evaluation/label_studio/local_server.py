"""A Label Studio of one's own on this machine, for trials and tests: on loopback, its data in a folder, gone with
whoever started it. What is installed is started: Label Studio lives in an environment of its own (it is 1 GB)."""

import os
import secrets
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from editcaption_mega.inference.serving.server import OwnServer
from editcaption_mega.settings import ServerSettings, SettingsError

PROGRAM = "EDITCAPTION_LABEL_STUDIO"  # names its executable
_START_SECONDS = 900.0  # the first start migrates its database, which takes minutes
_TOKEN_FILE = "token"


@dataclass(frozen=True)
class LocalServer:
    """url: its base address. token: of its first user, a legacy one. root: its folder, whose files it serves too."""

    url: str
    token: str
    root: Path


def installed_program(named: str = "") -> str | None:
    """The executable: the named one, that of $EDITCAPTION_LABEL_STUDIO, or one on PATH; None where there is none.

    Raises SettingsError for a name, given either way, that is no executable."""
    wanted = named or os.environ.get(PROGRAM, "")
    path = shutil.which(wanted or "label-studio")
    if wanted and path is None:
        raise SettingsError(f"{wanted} is no executable: name the label-studio of the environment that has it")
    return path


@contextmanager
def local_server(program: str, root: Path, *, say: Callable[[str], object] = print) -> Iterator[LocalServer]:
    """A server whose data is in `root`, which a later start goes on with. Raises ServerError, with its last words."""
    root = root.resolve()
    (root / "data").mkdir(parents=True, exist_ok=True)
    token = _token(root / _TOKEN_FILE)
    environment = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(root / "data"),
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(root),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_USERNAME": "first@example.com",
        "LABEL_STUDIO_PASSWORD": token,
        "LABEL_STUDIO_USER_TOKEN": token,  # not on the command line, which others see
        "LATEST_VERSION_CHECK": "false", "COLLECT_ANALYTICS": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "",
    }  # fmt: skip
    command = f"{shlex.quote(program)} start --no-browser --internal-host 127.0.0.1 --port {{port}}"
    settings = ServerSettings(
        program="custom", model="Label Studio", command=command, health="/health", start_seconds=_START_SECONDS
    )
    with OwnServer(settings, root / "log.txt", say=say, environment=environment) as server:
        yield LocalServer(server.url().removesuffix("/v1"), token, root)


def _token(path: Path) -> str:
    """Kept with the data, whose user has it; for nobody else to read."""
    if not path.is_file():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(20))
    return path.read_text("utf-8").strip()
