"""The order in which an interleaved stage receives what its neighbors send. That the tensors themselves are right is
measured over real ranks (tests/parity, tests/model/test_shared_prompt.py)."""

import pytest
from megatron.core.pipeline_parallel.schedules import get_schedule_table

from editcaption_mega.training.feature_transport import received_chunks


@pytest.mark.parametrize("stages", [2, 3, 4, 8])
@pytest.mark.parametrize("chunks", [2, 3, 4])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_what_a_stage_sends_is_what_the_next_one_awaits(stages, chunks, groups):
    """Chunk c of a stage is followed by chunk c of the next stage, and on the last stage by c + 1 of the first."""
    computed = [chunk for _, chunk in get_schedule_table(groups * stages, chunks, stages)]
    backward = [chunks - 1 - chunk for chunk in computed]
    for stage in range(stages):
        follower, last = (stage + 1) % stages, stage == stages - 1
        sent = [chunk + last for chunk in computed if chunk + last < chunks]
        assert received_chunks(groups * stages, chunks, follower, stages)[0] == sent
        # The follower sends back the gradient of each input that it got.
        returned = [chunk - last for chunk in backward if chunk - last >= 0]
        assert received_chunks(groups * stages, chunks, stage, stages)[1] == returned
        assert sorted(returned) == sorted(chunk - last for chunk in sent)
