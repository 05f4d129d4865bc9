"""An installed Transformer Engine that cannot be imported: Megatron-Core is to take it for none.

Megatron imports it wherever it is installed. It goes on without where that raises ImportError, and ends with any other
error, whether its layers are asked for or not: where a part is missing, a library is not found, or versions differ.
"""

import importlib
import importlib.util
import os
import sys

from editcaption_mega.words import one_line

_NAME = "transformer_engine"
_errors: list[str] = []


def transformer_engine_error() -> str:
    """Why it was left out; "" where it was not."""
    return _errors[0] if _errors else ""


def leave_out_broken() -> None:
    """Import it, before Megatron does. Where that fails, nothing of the process imports it any more, and rank 0 says so
    in a line on stderr."""
    if _errors or _NAME in sys.modules or importlib.util.find_spec(_NAME) is None:
        return
    import torch  # noqa: F401  which loads libraries that it looks for

    try:
        importlib.import_module(f"{_NAME}.pytorch")
    except ImportError:
        return
    except Exception as error:
        _errors.append(f"{one_line(str(error)) or type(error).__name__:.300}")
    else:
        return
    for name in [name for name in sys.modules if name.startswith(_NAME)]:
        del sys.modules[name]
    sys.modules[_NAME] = None  # type: ignore[assignment]  # an import raises ImportError
    if os.environ.get("RANK", "0") == "0":
        print(
            f"Transformer Engine is installed and cannot be imported ({_errors[0]}): nothing of it is used. Install it "
            "anew (make transformer-engine), or remove it (pip uninstall transformer-engine)",
            file=sys.stderr,
            flush=True,
        )
