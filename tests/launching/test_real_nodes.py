"""Jobs on a real Slurm of three nodes that lose one of them: they go on in the same allocation, on a spare node or on
fewer, and have the losses of an undisturbed run. Slow: Slurm takes 20 s to see that a node is gone."""

import pytest

from tests.helpers.real_slurm import RealSlurm, SubmittedJob, why_not
from tests.helpers.slurm_trial import STEPS, Trial

NODES = 3
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]

OUTLIVES = "--no-kill"
OTHER_SIZE = 1e-4  # of the loss, at another number of ranks: the bar of docs/parity.md


@pytest.fixture(scope="module")
def undisturbed(slurm, base):
    """Number of nodes -> losses."""
    losses = {}
    for nodes in (2, 3):
        trial = Trial(slurm, base, f"undisturbed {nodes}")
        job = trial.submit(f"--nodes={nodes}")
        assert job.end() == "COMPLETED", job.log
        losses[nodes] = trial.losses()
        assert len(losses[nodes]) == STEPS and trial.outcome()["nodes"] == ""
    return losses


class Loss:
    """`with Loss(slurm, job, "n1"):` that machine is gone with all that runs there, and is back afterwards."""

    def __init__(self, slurm: RealSlurm, job: SubmittedJob, node: str):
        self.slurm, self.job, self.node = slurm, job, node

    def __enter__(self) -> None:
        self.job.wait_says("step 15/")
        self.slurm.kill_node(self.node, with_processes=True)

    def __exit__(self, failed: object, *_: object) -> None:
        if failed:
            self.slurm.run("scancel", self.job.number)
        self.slurm.start_node(self.node)
        self.slurm.wait_for(lambda: "down" not in self.slurm.run("sinfo", "-h", "-N", "-o", "%T"), 120, "its return")


def test_a_lost_node_is_replaced_by_a_spare_one(slurm, base, undisturbed):
    trial = Trial(slurm, base, "spare")
    job = trial.submit(OUTLIVES, SPARE_NODES="1")
    with Loss(slurm, job, "n1"):
        assert job.end() == "COMPLETED" and job.field("Restarts") == "0", job.log
    assert "2 nodes x 1 = 2 ranks on n0,n1" in job.log and "in reserve: n2;" in job.log, job.log
    sentence = "n1 does not answer: starting again on n0, n2, from the newest checkpoint"
    assert sentence in job.log and "2 nodes x 1 = 2 ranks on n0,n2" in job.log, job.log
    assert trial.outcome()["kind"] == "finished" and trial.outcome()["nodes"] == sentence
    assert trial.losses() == undisturbed[2]


def test_without_a_spare_node_the_job_goes_on_with_fewer_where_it_may(slurm, base, undisturbed):
    trial = Trial(slurm, base, "fewer")
    job = trial.submit(OUTLIVES, MIN_NODES="2")
    with Loss(slurm, job, "n2"):
        assert job.end() == "COMPLETED" and job.field("Restarts") == "0", job.log
    sentence = "n2 does not answer: starting again on 2 nodes instead of 3: n0, n1, from the newest checkpoint"
    assert sentence in job.log and trial.outcome()["nodes"] == sentence, job.log
    assert trial.losses()[:10] == undisturbed[3][:10]
    largest = max(abs(a - b) for (a, _), (b, _) in zip(trial.losses(), undisturbed[3], strict=True))
    print(f"largest difference of a loss at 2 ranks after 3: {largest:.1e}")
    assert largest <= OTHER_SIZE


def test_with_neither_the_job_goes_back_into_the_queue(slurm, base, undisturbed):
    trial = Trial(slurm, base, "neither")
    job = trial.submit(OUTLIVES)
    with Loss(slurm, job, "n1"):
        job.wait_until("PENDING", 120)
    assert "n1 does not answer: back into the queue" in job.log and "requeued" in job.log, job.log
    job.start_now()
    assert job.end() == "COMPLETED", job.log
    assert "resumed after step" in job.log and trial.outcome()["nodes"].startswith("n1 does not answer: back")
    assert trial.losses() == undisturbed[3]


def test_a_job_that_loses_the_node_of_its_batch_script_goes_back_into_the_queue(slurm, base, undisturbed):
    """Nobody is left to start it again in its place; Slurm would hold its other nodes until the time limit."""
    trial = Trial(slurm, base, "first")
    job = trial.submit(OUTLIVES, SPARE_NODES="1")
    with Loss(slurm, job, "n0"):
        job.wait_until("PENDING", 120)
    job.start_now()
    assert job.end() == "COMPLETED", job.log
    assert "resumed after step" in job.log and trial.losses() == undisturbed[2]
