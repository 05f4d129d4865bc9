"""Experts' orders and sums of rows against plain PyTorch in fp64, for every backend that this machine has."""

import pytest
import torch
from torch import Tensor

from editcaption_mega.kernels import chunk_order, expert_order, sum_rows

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# tokens, experts, top_k
ROUTINGS = [(0, 4, 2), (1, 1, 1), (37, 8, 1), (70, 16, 8), (33, 300, 3), (5, 8, 8)]


def routing(tokens: int, experts: int, top_k: int, seed: int = 0) -> Tensor:
    """The choices of a router that never takes the last expert, where it has others."""
    scores = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed))
    if experts > top_k:
        scores[:, -1] = -torch.inf
    return torch.zeros(tokens, experts, dtype=torch.bool).scatter(1, scores.topk(top_k, 1).indices, True)


@pytest.mark.parametrize(("tokens", "experts", "top_k"), ROUTINGS)
def test_expert_order_sorts_by_expert_and_then_by_token(backend, tokens, experts, top_k):
    chosen = routing(tokens, experts, top_k)
    order = expert_order(chosen, top_k, backend=backend)
    pairs = [(expert, token) for expert in range(experts) for token in range(tokens) if chosen[token, expert]]
    assert order.token_of_row.tolist() == [token for _, token in pairs]
    assert order.choice_of_row.tolist() == [token * experts + expert for expert, token in pairs]
    row_of = {pair: row for row, pair in enumerate(pairs)}
    rows = [[row_of.get((expert, token), -1) for expert in range(experts)] for token in range(tokens)]
    assert order.row_of_choice.tolist() == rows
    assert order.rows_of_token.tolist() == [[row for row in of_token if row >= 0] for of_token in rows]
    assert order.counts.tolist() == chosen.sum(0).tolist()
    assert [part.dtype for part in order] == [torch.int32] * 4 + [torch.int64]


@pytest.mark.parametrize("sources, experts, most", [(1, 1, 5), (4, 3, 9), (2, 40, 2), (300, 1, 1), (3, 4, 0)])
def test_chunk_order_exchanges_source_and_expert(backend, sources, experts, most):
    counts = torch.randint(0, most + 1, (sources, experts), generator=torch.Generator().manual_seed(1))
    counts[0, 0] = 0  # an expert to whom one rank sends nothing
    rows = int(counts.sum())
    before, after = chunk_order(counts, rows, backend=backend)
    labels = [(expert, source, i) for source in range(sources) for expert in range(experts)
              for i in range(int(counts[source, expert]))]  # fmt: skip
    assert [labels[row] for row in before.tolist()] == sorted(labels)
    assert after[before.long()].tolist() == list(range(rows)) and after.dtype == before.dtype == torch.int32


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [1, 7, 8, 264, 513])
@pytest.mark.parametrize("top_k", [1, 8])
def test_tokens_go_to_their_experts_and_come_back(backend, dtype, columns, top_k):
    """Copies are exact; sums and gradients are those of fp64, rounded once."""
    tokens = 21
    order = expert_order(routing(tokens, 16, top_k), top_k, backend=backend)
    generator = torch.Generator().manual_seed(2)
    x, y = (torch.randn(n, columns, generator=generator).to(dtype).requires_grad_() for n in (tokens, tokens * top_k))
    rows, places = order.token_of_row[:, None], order.rows_of_token

    sent = sum_rows(x, rows, places, backend=backend)
    assert torch.equal(sent, x.index_select(0, order.token_of_row.long()))
    upstream = torch.randn(sent.shape, generator=generator).to(dtype)
    (found,) = torch.autograd.grad(sent, x, upstream)
    expected = torch.zeros(tokens, columns, dtype=torch.float64).index_add(0, rows[:, 0].long(), upstream.double())
    assert_rounded_once(found, expected)

    back = sum_rows(y, places, rows, backend=backend)
    expected = y.detach().double()[places.long()].sum(1)
    assert_rounded_once(back, expected)
    (found,) = torch.autograd.grad(back, y, upstream[:tokens])
    assert torch.equal(found, upstream[:tokens].index_select(0, order.token_of_row.long()))


def assert_rounded_once(found: Tensor, expected: Tensor) -> None:
    tolerance = 0.51 * torch.finfo(found.dtype).eps if found.dtype != torch.float32 else 1e-6
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=tolerance)


def test_probabilities_find_their_rows_and_gradients_their_choices(backend):
    """One column, and an index of -1 for what was not chosen."""
    order = expert_order(routing(40, 12, 3), 3, backend=backend)
    probs = torch.rand(40, 12, generator=torch.Generator().manual_seed(3)).requires_grad_()
    choices, rows = order.choice_of_row[:, None], order.row_of_choice.view(-1, 1)
    picked = sum_rows(probs.view(-1, 1), choices, rows, backend=backend)
    assert torch.equal(picked[:, 0], probs.detach().flatten()[order.choice_of_row.long()])
    upstream = torch.arange(120.0)[:, None] + 1
    (found,) = torch.autograd.grad(picked, probs, upstream)
    assert torch.equal(found.flatten()[order.choice_of_row.long()], upstream[:, 0])
    assert not found[order.row_of_choice < 0].any()


def test_nothing_is_sent_and_nothing_comes_back(backend):
    order = expert_order(routing(0, 4, 2), 2, backend=backend)
    x = torch.zeros(0, 16, requires_grad=True)
    sent = sum_rows(x, order.token_of_row[:, None], order.rows_of_token, backend=backend)
    assert sent.shape == (0, 16) and torch.autograd.grad(sent.sum(), x)[0].shape == (0, 16)
    before, after = chunk_order(torch.zeros(2, 3, dtype=torch.int64), 0, backend=backend)
    assert before.shape == after.shape == (0,)
    # Tokens, none of whose rows came here.
    empty = sum_rows(
        x, torch.full((3, 2), -1, dtype=torch.int32), torch.zeros(0, 1, dtype=torch.int32), backend=backend
    )
    assert empty.shape == (3, 16) and not empty.any()


def test_two_runs_agree_to_the_bit_and_strides_do_not_matter(backend):
    order = expert_order(routing(64, 16, 8), 8, backend=backend)
    y = torch.randn(24, 512, generator=torch.Generator().manual_seed(4)).t()  # columns lie apart
    first, second = (sum_rows(tensor, order.rows_of_token, order.token_of_row[:, None], backend=backend)
                     for tensor in (y, y.contiguous()))  # fmt: skip
    assert torch.equal(first, second)


def test_gradients_of_every_order_in_fp64():
    order = expert_order(routing(6, 5, 2), 2, backend="torch")
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    indices = order.token_of_row[:, None], order.rows_of_token
    torch.autograd.gradcheck(lambda x: sum_rows(x, *indices), x)
    torch.autograd.gradgradcheck(lambda x: sum_rows(x, *indices).sin(), x)
    y = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda y: sum_rows(y, *reversed(indices)), y)


@pytest.mark.parametrize(
    "choices", [[[True, True, False]], [[False, False, True]], [[True, False, True], [True, True, True]]]
)
def test_a_token_without_its_experts_is_refused_where_values_are_seen(choices):
    chosen = torch.tensor(choices)
    if chosen.sum() == 2 * len(chosen):
        chosen[0, 2] = True
    with pytest.raises(ValueError, match="exactly top_k"):
        expert_order(chosen, 2, backend="cpu")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: expert_order(torch.ones(2, 3), 1), "`routing_map` must be bool"),
        (lambda: expert_order(torch.ones(2, 3, dtype=torch.bool), 4), "found torch.bool .2, 3. and top_k 4"),
        (lambda: chunk_order(torch.ones(2, 3), 6), "`counts` must be int64"),
        (lambda: sum_rows(torch.ones(2, 3), torch.zeros(1, 1), torch.zeros(2, 1)), "`index` int32"),
        (
            lambda: sum_rows(torch.ones(2, 3), *(torch.zeros(1, 1, dtype=torch.int32) for _ in range(2))),
            r"found \[2, 3\], torch.int32 \[1, 1\]",
        ),
        (
            lambda: sum_rows(*(torch.zeros(1, 1, dtype=torch.int32) for _ in range(3))),
            "float16 or float64, found int32",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_operators_pass_pytorchs_own_checks_and_compile():
    """Schema and fake form agree; torch.compile sees each as one operator."""
    chosen = routing(8, 6, 2)
    order = expert_order(chosen, 2)
    indices = order.token_of_row[:, None], order.rows_of_token
    x = torch.randn(8, 4, requires_grad=True)
    operators = torch.ops.editcaption
    torch.library.opcheck(operators.expert_order.default, (chosen, 2, "cpu"))
    torch.library.opcheck(operators.chunk_order.default, (torch.tensor([[1, 2], [0, 3]]), 6, "cpu"))
    torch.library.opcheck(operators.sum_rows.default, (x.detach(), *indices, "cpu"))
    compiled = torch.compile(lambda x: sum_rows(x, *indices) * 2, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), sum_rows(x, *indices) * 2)
