"""What launch/start.sh becomes: makes the plan, says it, and does it.

python -m editcaption_mega.launching.start SCRIPT [--dry-run] CONFIG [key=value ...]
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

from .launch_plan import lines, plan_launch
from .supervisor import supervise


def start(argv: list[str]) -> int:
    """-> the exit code, where this process does not become another one."""
    script, *arguments = argv
    words = [word for word in arguments if word != "--dry-run"]
    try:
        plan = plan_launch(script, words, os.environ)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if words != arguments:
        print("\n".join(lines(plan)))
        print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in sorted(plan.environment.items())))
        if os.environ.get("CONTAINER_IMAGE"):
            print("settings and paths were not looked at: the job's Python is in its container")
            print("nothing was started (--dry-run)")
            return 0
        sys.stdout.flush()
        ranks = plan.num_nodes * plan.ranks_per_node
        look = [sys.executable, script, *words, "--dry-run", "--gpus", str(ranks)]
        return subprocess.run(look, env={**os.environ, **plan.environment}, check=False).returncode
    os.environ.update(plan.environment)
    if plan.job:
        return supervise(plan)
    sys.stdout.flush()
    os.execvp(plan.command[0], plan.command)


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
