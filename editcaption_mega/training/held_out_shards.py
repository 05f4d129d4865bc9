"""The pairs of a job that are held out, from their shards to what an evaluation reads."""

from dataclasses import dataclass
from pathlib import Path

from editcaption_mega import platform
from editcaption_mega.data.batching.cut import compared_with_training
from editcaption_mega.data.batching.dataset import PairDataset, SampleLengths
from editcaption_mega.data.batching.job_samples import JobSamples
from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.data.shards.shard_columns import ShardColumns
from editcaption_mega.data.start_tables import JobShards
from editcaption_mega.settings import JobSettings

from .setup import measure_samples


@dataclass(frozen=True)
class HeldOutShards:
    """tables: the folder for what is found out about them. notes: lines for the log."""

    shards: JobShards
    tables: Path
    notes: list[str]

    @classmethod
    def of(cls, settings: JobSettings, training: ShardReader, tables: Path) -> "HeldOutShards | None":
        """None where no pairs are held out. Collective; raises ShardError and SettingsError, alike on every rank, also
        for pairs that are trained on."""
        samples = JobSamples.held_out(settings.data)
        if samples is None:
            return None
        shards = JobShards(samples, tables)
        held_out = shards.reader.columns
        notes = platform.from_rank_zero(lambda: held_out_lines(settings, held_out, training.columns))
        return cls(shards, tables, notes)

    def measured(
        self, training: PairDataset, sequence_length: int, *, skip_bad: bool = False
    ) -> tuple[PairDataset, SampleLengths]:
        """The pairs as the model of the training pairs sees them, with their lengths. Once the folder is the job's.
        Collective; raises as `measure_samples`."""
        self.shards.keep()
        dataset = training.of_shards(self.shards.reader)
        return dataset, measure_samples(dataset, sequence_length, self.tables, skip_bad=skip_bad)


def held_out_lines(settings: JobSettings, held_out: ShardColumns, training: ShardColumns) -> list[str]:
    """What a reader must know of them. Raises SettingsError for pairs that are trained on."""
    data, every = settings.data, settings.evaluation.every
    where = ", ".join(data.held_out) or f"data.held_out_share={data.held_out_share}"
    when = f"evaluated every {every} steps and after the last" if every else "not evaluated (evaluation.every=0)"
    line = (
        f"{len(held_out.ids):,} pairs are held out ({where}) from {len(training.ids):,} that are trained on, and {when}"
    )
    return [line, *(compared_with_training(held_out, training) if data.held_out else [])]
