"""Loss and metrics of the held-out pairs under the weights that train, in every layout: the forward half of a step."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import batched

import torch
from megatron.core import parallel_state

from editcaption_mega import phases
from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.data.batching.loader import Round, SequenceReader, read_ahead
from editcaption_mega.data.batching.ranges import RangeReader
from editcaption_mega.data.batching.row_processes import RowProcesses
from editcaption_mega.data.shards.unreadable import BadSample
from editcaption_mega.objectives import Objective, RowLoss

from .bad_samples import BadSamples
from .improvement import PREFIX, Improvement
from .inputs import ReadingAhead, on_device
from .pipeline import head_outputs
from .row_losses import sum_over_ranks
from .setup import range_size


class HeldOut:
    """An `evaluations.Evaluation`: the objective's loss and metrics over all held-out pairs.

    objective: knows these pairs by their numbers in the reader's data. say: takes a line for the log. improvement: is
    given what it goes by."""

    def __init__(
        self,
        chunks: list[torch.nn.Module],
        objective: Objective,
        reader: SequenceReader[PairDataset],
        improvement: Improvement,
        say: Callable[[str], None],
        bad_samples_share: float = 1.0,
    ):
        """bad_samples_share: of pairs that cannot be read, where the reader leaves such out."""
        self.chunks, self.objective, self.improvement, self.say = chunks, objective, improvement, say
        divided = parallel_state.get_expert_model_parallel_world_size() > 1
        self.ranges = RangeReader.of(reader, range_size(reader), together=divided)
        in_round = self.ranges.size * reader.packer.share.data_parallel_size
        self.rounds = list(batched(range(len(reader.dataset)), in_round))
        self.share, self._named = bad_samples_share, 0
        self.reading: ReadingAhead = {"ahead": 1, "workers": 1, "processes": False}
        self._reader = self.ranges

    @contextmanager
    def open(self, reading: ReadingAhead) -> Iterator["HeldOut"]:
        """A block in which pairs are read as a job's settings say: processes start once, not at each evaluation."""
        self.reading = {**reading, "processes": False}
        if not reading["processes"]:
            yield self
            return
        with closing(RowProcesses(self.ranges, reading["workers"])) as processes:
            self._reader = _ByProcesses(**vars(self.ranges), processes=processes)
            yield self

    def __call__(self, step: int) -> Mapping[str, float | None]:
        """Collective. Raises ValueError, alike on every rank, for a pair that cannot be read."""
        row_losses: list[RowLoss] = []
        rounds = read_ahead(self._reader, self.rounds, **self.reading)
        left_out: list[BadSample] = []
        with closing(BadSamples(self._reader, self.share, what="the held-out pairs").agreed(on_device(rounds))) as read:
            for of_round in read:
                phases.enter(phases.SCORING)
                row_losses += self._row_losses(of_round)
                left_out += of_round.left_out
        sums = sum_over_ranks(row_losses, self.objective.num_statistics)
        values = {"loss": sums[0].item() / self._count(left_out)} | self.objective.metrics(sums[1:])
        numbers = {PREFIX + name: value if math.isfinite(value) else None for name, value in values.items()}
        if left_out:
            numbers[f"{PREFIX}bad_samples"] = len(left_out)
            self._say_bad(step, left_out)
        best = self.improvement.take(step, numbers[self.improvement.metric])
        self.say(self._line(step, numbers, best))
        if ending := self.improvement.ending():
            self.say(ending)
        return numbers

    def _count(self, left_out: list[BadSample]) -> int:
        """What the sum of the loss is divided by."""
        answers = self.ranges.lengths.answers
        without = int(answers[[sample.number for sample in left_out]].sum())
        return self.objective.count(int(answers.sum()) - without, len(answers) - len(left_out))

    def _say_bad(self, step: int, left_out: list[BadSample]) -> None:
        """How many, and which where they are not those of the evaluation before."""
        self.say(f"step {step}  held out: {len(left_out)} of {len(self.ranges.dataset)} pairs cannot be read, left out")
        if len(left_out) != self._named:
            self._named = len(left_out)
            for sample in left_out:
                self.say(f"held-out sample {sample.id} of {sample.shard} is left out: {sample.reason}")

    def _row_losses(self, of_round: Round) -> list[RowLoss]:
        """Of this rank's rows of a round; none before the last stage. Collective as a forward pass is."""
        if not of_round.micro_batches:  # the pairs have ended
            return []
        batches, length = of_round.micro_batches, of_round.plan.length
        self.objective.prepare(batches, length)
        outputs = head_outputs(self.chunks, batches, length, self.objective.head)
        rows = zip(self.ranges.counted(of_round), batches, outputs, strict=False)  # no outputs before the last stage
        return [self.objective.row_loss(output, batch) for counts, batch, output in rows if counts]

    def _line(self, step: int, numbers: Mapping[str, float | None], best: bool) -> str:
        shown = {"loss": "loss", **self.objective.shown_metrics}
        words = [f"{name} {_shown(numbers[PREFIX + key])}" for key, name in shown.items() if PREFIX + key in numbers]
        return f"step {step}  held out: {'  '.join(words)}{'  (best so far)' if best else ''}"


@dataclass(frozen=True)
class _ByProcesses(RangeReader):
    """A reader whose sequences are read by processes that are there already."""

    processes: RowProcesses | None = None

    def read(self, samples: Sequence[int], length: int, without: Collection[int] = ()) -> PackedBatch:
        assert self.processes is not None
        return super().read(samples, length, without) if without else self.processes.read(samples, length)


def _shown(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"
