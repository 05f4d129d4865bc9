"""What a batch script does when its step ends, with Slurm's commands made up. With a real one: test_real_slurm.py."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import ROOT

# srun: the outcome of each start is a line of $PLAN: "kind step", "-" for none, "asked" to wait for USR1.
SRUN = """#!/bin/bash
case "$*" in *.watcher) echo "$*" > "$RAN.watcher"; exec sleep 60;; esac
folder="$EDITCAPTION_JOB_FOLDER"
read -r kind step code < <(sed -n "$(($(wc -l < "$RAN") + 1))p" "$PLAN")
echo "$*" >> "$RAN"
if [ "$kind" = asked ]; then
    trap 'asked=1' USR1; asked=; touch "$RAN.ready"
    while [ -z "$asked" ]; do sleep 0.05; done
    kind=saved
fi
[ -n "$step" ] && echo "{\\"checkpoint\\": $step}" > "$folder/progress.json"
[ -n "$LAYOUT" ] && echo "$LAYOUT" > "$folder/layout.json"
end="{\\"kind\\": \\"$kind\\", \\"message\\": \\"m\\", \\"exit_code\\": ${code:-0}, \\"node\\": \\"node-1\\"}"
[ "$kind" = - ] || echo "$end" > "$folder/outcome.json"
exit "${code:-0}"
"""
SCONTROL = """#!/bin/bash
case "$*" in
    "show hostnames "*) shift 2; for name in $*; do echo $name; done;;
    *"show node "*)
        for name in $SLURM_JOB_NODELIST; do
            case " $DOWN " in *" $name "*) state=DOWN*;; *) state=ALLOCATED;; esac
            echo "NodeName=$name NodeAddr=10.0.0.1 State=$state Boot=x"
        done;;
    "show job 7")
        echo "JobId=7 JobState=$JOB_STATE Requeue=$REQUEUE BatchFlag=1 NodeList=${HELD:-$SLURM_JOB_NODELIST}"
        echo "   BatchHost=node-1 StdOut=$LOGS/7.out Power=";;
    "requeue 7") echo requeue >> "$RAN"; kill -TERM "$PPID";;
esac
"""


@pytest.fixture
def supervised(tmp_path):
    """-> a function: the ends of the starts -> (exit code, what was run, the log, the job's folder)."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def start(*ends: str, signals=0, **environment: str):
        (tmp_path / "plan").write_text("\n".join(ends) + "\n")
        (tmp_path / "ran").write_text("")
        values = {"RAN": tmp_path / "ran", "PLAN": tmp_path / "plan", "LOGS": tmp_path, "JOB_STATE": "RUNNING"}
        values |= {"REQUEUE": "1", "DOWN": "", "LAYOUT": "", "PYTHONPATH": ROOT, "NPROC_PER_NODE": "1"}
        values |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node-1", "SLURM_NNODES": "1", **environment}
        values["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
        command = [sys.executable, "-m", "editcaption_mega.launching.start", str(ROOT / "launch/pretrain_sft.sh"), "c"]
        process = subprocess.Popen(
            command, env=os.environ | {k: str(v) for k, v in values.items()}, stderr=subprocess.PIPE, text=True
        )
        while signals and not (tmp_path / "ran.ready").exists():
            time.sleep(0.05)
        if signals:
            process.send_signal(signals)
        log = process.communicate(timeout=60)[1]
        ran = [line.split()[0] for line in (tmp_path / "ran").read_text().splitlines()]
        return process.returncode, [word if word == "requeue" else "start" for word in ran], log, tmp_path / "slurm-7"

    return start


def test_finished(supervised):
    assert supervised("finished")[:2] == (0, ["start"])
    assert supervised("- '' 0")[:2] == (0, ["start"])


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_warning_is_passed_on_and_what_was_saved_goes_back_into_the_queue(supervised, number):
    code, ran, log, _ = supervised("asked 5", signals=number)
    assert ran == ["start", "requeue"] and code == -signal.SIGTERM, log  # as Slurm ends it then
    assert "saved: m" in log and "requeued" in log


def test_a_user_s_error_ends_the_job_with_its_code(supervised):
    code, ran, log, _ = supervised("error 0 2")
    assert (code, ran) == (2, ["start"]) and "error: m" in log


def test_a_fault_is_started_again_here_and_then_elsewhere(supervised):
    code, ran, log, _ = supervised("fault 5 1", "fault 5 1", "fault 5 1", "finished")
    assert ran == ["start", "start", "start", "requeue"], log
    assert log.count("starting again on the same nodes") == 2


def test_a_start_that_was_killed_without_a_word_is_a_fault(supervised):
    _, ran, log, _ = supervised("- 5 137", "finished")
    assert ran == ["start", "start"] and "without saying how (srun: signal 9)" in log


def test_a_node_that_is_lost_is_not_used_again(supervised):
    _, ran, log, _ = supervised("fault 5 1", DOWN="node-1")
    assert ran == ["start", "requeue"] and "node-1 does not answer" in log


def test_it_ends_when_nothing_is_reached_again_and_again(supervised):
    """The count goes on through the queue: every start of the batch script reads it."""
    supervised("fault 5 1", "fault 5 1", "fault 5 1")
    for idle in (3, 4, 5):
        _, ran, log, folder = supervised("fault 5 1")
        assert ran == ["start", "requeue"] and json.loads((folder / "starts.json").read_text()) == {"idle": idle}
    code, ran, log, _ = supervised("fault 5 1")
    assert (code, ran) == (1, ["start"]) and "6 starts in a row got no further (EDITCAPTION_RESTARTS=5)" in log
    _, ran, _, folder = supervised("saved 6")
    assert ran == ["start", "requeue"] and json.loads((folder / "starts.json").read_text()) == {"idle": 0}


@pytest.mark.parametrize("restarts", ["abc", "-1", "1.5"])
def test_a_number_of_restarts_that_is_none_is_refused_before_the_start(supervised, restarts):
    code, ran, log, _ = supervised("- '' 1", EDITCAPTION_RESTARTS=restarts)
    assert (code, ran) == (2, []) and f"EDITCAPTION_RESTARTS is {restarts!r}, expected how often" in log
    assert "Traceback" not in log


def test_no_restart_at_all(supervised):
    code, ran, log, _ = supervised("- '' 1", EDITCAPTION_RESTARTS="0")
    assert (code, ran) == (1, ["start"]) and "(EDITCAPTION_RESTARTS=0)" in log


def test_a_canceled_job_is_not_brought_back(supervised):
    for end, code in (("saved 5", 0), ("fault 5 1", 1)):
        assert supervised(end, JOB_STATE="COMPLETING")[:2] == (code, ["start"])


def test_a_job_that_may_not_be_requeued(supervised):
    code, ran, log, _ = supervised("saved 5", REQUEUE="0")
    assert (code, ran) == (0, ["start"]) and "the same command goes on" in log


# Three nodes, of which the second is lost.
LOST = {"SLURM_JOB_NODELIST": "node-1 node-2 node-3", "SLURM_NNODES": "3", "DOWN": "node-2"}
LAYOUT = {"rank_multiple": 1, "model_parallel_size": 1, "global_batch_size": 4}


def starts(folder):
    """The nodes that each start names; "" where it takes all."""
    ran = (folder.parent / "ran").read_text().splitlines()
    named = [re.search(r"--nodelist=(\S+)", line) for line in ran if line != "requeue"]
    return [match.group(1) if match else "" for match in named]


def test_a_lost_node_is_replaced_by_a_spare_one(supervised):
    code, ran, log, folder = supervised("fault 5 1", "finished", **LOST, SPARE_NODES="1")
    assert (code, ran) == (0, ["start", "start"]), log
    assert starts(folder) == ["node-1,node-2", "node-1,node-3"]
    sentence = "node-2 does not answer: starting again on node-1, node-3, from the newest checkpoint"
    assert sentence in log and json.loads((folder / "starts.json").read_text())["nodes"] == sentence
    assert "2 nodes x 1 = 2 ranks on node-1,node-3" in log
    assert "--nodelist=node-2 " in (folder.parent / "ran.watcher").read_text()


def test_a_lost_node_that_slurm_has_taken_from_the_job_is_not_used_again(supervised):
    """It may be up again by then, and somebody else's."""
    free = LOST | {"DOWN": "", "HELD": "node-1 node-3"}
    _, ran, log, folder = supervised("fault 5 1", "finished", **free, SPARE_NODES="1")
    assert ran == ["start", "start"] and starts(folder)[1] == "node-1,node-3", log


@pytest.mark.parametrize(("fewest", "again"), [("2", True), ("", False)])
def test_without_a_spare_node_it_goes_on_with_fewer_where_it_may(supervised, fewest, again):
    values = LOST | {"MIN_NODES": fewest, "LAYOUT": json.dumps(LAYOUT)}
    _, ran, log, folder = supervised("fault 5 1", "finished", **values)
    if again:
        assert ran == ["start", "start"] and starts(folder)[1] == "node-1,node-3", log
        assert "starting again on 2 nodes instead of 3: node-1, node-3" in log
    else:
        assert ran == ["start", "requeue"] and "node-2 does not answer: back into the queue, because" in log
        assert json.loads((folder / "outcome.json").read_text())["nodes"].startswith("node-2 does not answer: back")
        assert not (folder.parent / "ran.watcher").exists()


def test_fewer_nodes_need_a_layout_that_the_ranks_have_noted(supervised):
    _, ran, log, _ = supervised("fault 5 1", **LOST, MIN_NODES="1")
    assert ran == ["start", "requeue"] and "too few (SPARE_NODES, MIN_NODES)" in log


def test_the_node_of_a_rank_that_fails_twice_is_left_out_where_there_is_a_spare_one(supervised):
    values = LOST | {"DOWN": "", "SPARE_NODES": "1"}
    _, ran, log, folder = supervised("fault", "fault", "fault", **values)
    assert ran == ["start", "start", "start", "requeue"], log
    assert starts(folder)[1:] == ["node-1,node-2", "node-2,node-3"], log
    assert "node-1 is left out after 2 starts that got no further: starting again on node-2, node-3" in log


def test_lost_nodes_are_replaced_no_more_often_than_other_starts_without_progress(supervised):
    code, ran, log, _ = supervised("fault", **LOST, SPARE_NODES="1", EDITCAPTION_RESTARTS="0")
    assert (code, ran) == (1, ["start"]) and "(EDITCAPTION_RESTARTS=0)" in log


def test_a_batch_script_whose_own_node_is_lost_does_not_go_on(supervised):
    """Its job holds other nodes than its own; the watcher on one of them does the same where the script is gone."""
    values = LOST | {"DOWN": "", "HELD": "node-2 node-3", "SPARE_NODES": "1"}
    _, ran, log, _ = supervised("fault 5 1", **values)
    assert ran == ["start", "requeue"] and "node-1 does not answer: back into the queue" in log
