"""Which tokens of a row each tensor-parallel rank holds."""

import pytest
import torch

from editcaption_mega.model.parallel.row_parts import RowParts


@pytest.mark.parametrize("parts", [RowParts(24, 2, 3), RowParts(24, 4, 1), RowParts(24, 1, 1), RowParts(16, 4, 4)])
def test_a_rank_holds_a_part_of_each_piece(parts):
    row = torch.arange(parts.length)
    held = parts.by_rank(row)
    assert torch.equal(parts.in_order(held), row)
    assert torch.equal(parts.by_rank(row[None].expand(2, -1), 1)[1], held)
    for rank, own in enumerate(held.chunk(parts.ranks)):
        assert [parts.place(token) for token in own.tolist()] == [(rank, i) for i in range(len(own))]
        for piece in own.split(parts.part):  # gathered over ranks, these are the piece in its order
            assert (piece // (parts.part * parts.ranks)).unique().numel() == 1


@pytest.mark.parametrize(
    ("length", "ranks", "wanted", "pieces"),
    [(5376, 4, None, 4), (2688, 4, None, 2), (1022, 2, None, 1), (5376, 1, None, 1), (160, 2, 4, 4), (12, 4, 4, 3)],
)
def test_as_many_pieces_as_are_worth_it_and_divide_the_row(length, ranks, wanted, pieces):
    assert RowParts.of(length, ranks, wanted).pieces == pieces
