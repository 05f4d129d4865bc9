"""The steps of a run wait for nothing that they do not use."""

import subprocess
import sys

STEPS = ("preparation", "generation", "judging", "executing", "reporting", "success", "dry_run")


def test_no_step_waits_for_pytorch_before_a_model_runs_in_process():
    imports = "; ".join(f"import editcaption_mega.evaluation.run.{step}" for step in STEPS)
    script = f"import sys; {imports}; print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "[]\n", done.stdout + done.stderr
