"""Which tokens of a row a tensor-parallel rank holds under sequence parallelism.

A row is cut into equal pieces, and of each piece every rank has an equal part: [piece 0: rank 0 | rank 1 | ..][piece 1:
rank 0 | ..]. What the ranks hold of a piece, gathered, is the piece in its order, so that products begin when the first
piece has come and the others travel meanwhile (`linears`). With one piece this is Megatron's division.
"""

from typing import NamedTuple

from torch import Tensor

_TOKENS, _MOST = 1024, 4  # of a piece at least: shorter products are slower; what four leave uncovered is little


class RowParts(NamedTuple):
    """The division of a row of `length` tokens."""

    length: int
    ranks: int
    pieces: int

    @classmethod
    def of(cls, length: int, ranks: int, pieces: int | None = None) -> "RowParts":
        """pieces: as many as wanted (setting `parallel.sequence_pieces`), None for as many as are worth it; of these,
        as many as divide the row."""
        wanted = min(_MOST, max(1, length // _TOKENS)) if pieces is None else pieces
        if ranks == 1:
            return cls(length, 1, 1)
        return cls(length, ranks, max(n for n in range(1, wanted + 1) if length % (n * ranks) == 0))

    @property
    def part(self) -> int:
        """Tokens that a rank holds of a piece."""
        return self.length // (self.ranks * self.pieces)

    def by_rank(self, row: Tensor, dim: int = 0) -> Tensor:
        """A row in its order -> the same with what each rank holds together, rank after rank."""
        if self.pieces == 1:
            return row
        return row.unflatten(dim, (self.pieces, self.ranks, -1)).transpose(dim, dim + 1).flatten(dim, dim + 2)

    def in_order(self, gathered: Tensor, dim: int = 0) -> Tensor:
        """The inverse of `by_rank`."""
        if self.pieces == 1:
            return gathered
        return gathered.unflatten(dim, (self.ranks, self.pieces, -1)).transpose(dim, dim + 1).flatten(dim, dim + 2)

    def place(self, token: int) -> tuple[int, int]:
        """A token of the row -> (the rank that holds it, its place there)."""
        piece, within = divmod(token, self.ranks * self.part)
        rank, place = divmod(within, self.part)
        return rank, piece * self.part + place
