"""Pieces whose costs are said by formulas, for searches that execute nothing."""

from dataclasses import dataclass, field

from editcaption_mega.planning.layouts.pieces import Costs, Pieces, StagePart, StagePiece
from editcaption_mega.planning.timing.cost import StreamTime

GB = 10**9
_PARAMETERS = {"first": (0.7 * GB, 0.0), "layers": (0.07 * GB, 2.4 * GB), "last": (0.6 * GB, 0.0)}  # dense, of experts
_SECONDS = {"first": 0.04, "layers": 0.012, "last": 0.002}  # of a sample's forward pass on one rank
_RETAINED = {"first": 3.0 * GB, "layers": 2.4 * GB, "last": 0.2 * GB}
# Of the forward pass, what runs again; of what is retained, what still is.
_RECOMPUTE = {"none": (0.0, 1.0), "selective": (0.2, 0.7), "full": (1.0, 0.08)}


@dataclass
class GivenPieces(Pieces):
    """Larger tensor-parallel groups communicate more, expert ones too, longer rows are a little faster per sample."""

    executed: list[StagePiece] = field(default_factory=list)

    def execute(self, pieces, progress=None):
        for piece in pieces:
            if piece not in self.known:
                self.executed.append(piece)
                part = self._part(piece)
                self.known[piece] = Costs(part, part)

    def _part(self, piece: StagePiece) -> StagePart:
        ranks, dense, experts = piece.ranks, *_PARAMETERS[piece.place]
        kind = piece.recompute.kind if piece.place == "layers" else "full" if piece.vision else "none"
        again, remains = _RECOMPUTE[kind]
        if kind == "selective":
            again, remains = again * len(piece.recompute.modules), remains ** len(piece.recompute.modules)
        held = dense / ranks.tensor + experts / (ranks.expert * ranks.expert_tensor)
        shards = 12 * (dense / ranks.size + experts / ranks.size)
        slower = 1 + 0.08 * (ranks.tensor - 1) + 0.01 * ranks.expert * (piece.place == "layers")
        forward = piece.samples**0.95 * _SECONDS[piece.place] / ranks.tensor * slower + 0.0005
        busy = {"matmul": forward - 0.0005}
        retained = piece.samples * _RETAINED[piece.place] / ranks.tensor
        later = forward if piece.delayed else 0.0
        backward = (2 + again) * forward - later
        return StagePart(
            forward=StreamTime(forward, busy),
            backward=StreamTime(backward, {"matmul": backward / forward * busy["matmul"]}),
            made_later=StreamTime(later, {"matmul": later / forward * busy["matmul"]}),
            after=StreamTime(held * 4 / 45e9),
            recomputed=again * forward,
            weights=2 * held,
            gradients=4 * held,
            optimizer=shards,
            parameters=held,
            inputs=0.02 * GB,
            retained=retained * remains,
            waiting=0.8 * retained if piece.delayed else 0.0,
            forward_peak=retained * 1.1,
            backward_peak=retained * (1 - remains + 0.3),
            gradients_peak=0.1 * retained if piece.delayed else 0.0,
            language_flops=forward * 1e14,
        )
