"""What launch/start.sh becomes: makes the plan, says it, and does it.

python -m editcaption_mega.launching.start SCRIPT [--dry-run] CONFIG [key=value ...]
"""

from __future__ import annotations

import os
import shlex
import sys

from .launch_plan import lines, plan_launch
from .supervisor import supervise


def start(argv: list[str]) -> int:
    """-> the exit code, where this process does not become another one."""
    script, *arguments = argv
    dry = "--dry-run" in arguments
    try:
        plan = plan_launch(script, [word for word in arguments if word != "--dry-run"], os.environ)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if dry:
        print("\n".join(lines(plan)))
        print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in sorted(plan.environment.items())))
        print("nothing was started (--dry-run)")
        return 0
    os.environ.update(plan.environment)
    if plan.job:
        return supervise(plan)
    sys.stdout.flush()
    os.execvp(plan.command[0], plan.command)


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
