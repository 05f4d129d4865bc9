"""The process that watches a batch script's node, with scontrol made up. With a real one: test_real_nodes.py."""

import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT

SCONTROL = """#!/bin/bash
case "$*" in
    "show hostnames "*) shift 2; for name in $*; do echo $name; done;;
    "show job 7") echo look >> "$SAID"; echo "JobId=7 $JOB BatchFlag=1 BatchHost=node-1 Power=";;
    "requeue 7") echo requeue >> "$SAID"; kill -TERM "$PPID";;
esac
"""
# As the module does when it is run, but for the time between two looks.
WATCH = """
import os
from editcaption_mega.launching import watcher
watcher._SECONDS = 0.02
watcher.watch(watcher.SlurmJob.from_environment(os.environ))
"""


@pytest.mark.parametrize(
    ("job", "requeued"),
    [
        ("JobState=RUNNING NodeList=node-2 node-3", True),
        ("JobState=RUNNING NodeList=node-1 node-3", False),
        ("JobState=COMPLETING NodeList=node-2 node-3", False),
    ],
)
def test_a_job_without_the_node_of_its_batch_script_goes_back_into_the_queue(tmp_path, job, requeued):
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    values = {"SLURM_JOB_ID": "7", "JOB": job, "SAID": str(tmp_path / "said"), "PYTHONPATH": str(ROOT)}
    values["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    process = subprocess.Popen([sys.executable, "-c", WATCH], env=os.environ | values)
    try:
        process.wait(60 if requeued else 2)
    except subprocess.TimeoutExpired:
        assert not requeued
    finally:
        process.kill()
        process.wait()
    said = (tmp_path / "said").read_text().splitlines()
    assert said.count("look") >= 1 and ("requeue" in said) == requeued
