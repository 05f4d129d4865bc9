"""Pieces of stages of any size from those of the largest: only the optimizer's shard depends much on it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from editcaption_mega.progress import Progress, no_progress

from .choices import Groups
from .pieces import Costs, Pieces, StagePiece


class Alike:
    """Answers like `Pieces` of a job, with fewer executions."""

    def __init__(self, pieces: Pieces, groups: Sequence[Groups], world_size: int) -> None:
        self.pieces = pieces
        self.architecture, self.hardware, self.workload = pieces.architecture, pieces.hardware, pieces.workload
        self.sizes: dict[tuple[int, int, int], int] = {}  # ranks of the largest stage
        for each in groups:
            for expert, expert_tensor in ((each.expert, each.expert_tensor), (1, each.tensor)):
                key = (each.tensor, expert, expert_tensor)
                self.sizes[key] = max(self.sizes.get(key, 0), world_size // each.pipeline)

    def like(self, piece: StagePiece) -> StagePiece:
        """The piece that is executed in place of this one."""
        ranks = piece.ranks
        return replace(piece, ranks=replace(ranks, size=self.sizes[ranks.tensor, ranks.expert, ranks.expert_tensor]))

    def execute(self, pieces: Iterable[StagePiece], progress: Progress = no_progress) -> None:
        self.pieces.execute(map(self.like, pieces), progress)

    def runs(self, piece: StagePiece) -> bool:
        """Whether an executed piece could run."""
        return self.like(piece) in self.pieces.known

    def __getitem__(self, piece: StagePiece) -> Costs:
        """Raises ValueError as `Pieces`."""
        like = self.like(piece)
        costs, times = self.pieces[like], like.ranks.size / piece.ranks.size
        return Costs(
            replace(costs.each, optimizer=costs.each.optimizer * times),
            replace(costs.alone, optimizer=costs.alone.optimizer * times),
        )
