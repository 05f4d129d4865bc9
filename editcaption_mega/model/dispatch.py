"""How tokens reach the ranks of their experts and come back: a dispatcher of our own behind Megatron's interface.

Megatron's all-to-all dispatcher cuts what it receives into a chunk for each expert of each sender, in Python, waits for
the host to know their sizes, and adds results up with atomics in bf16 where Transformer Engine is not installed. This
one sends the same rows in the same order and sorts them by indices made on the device (`kernels.expert_rows`); sums are
in fp32 and in one order. The host waits once in a layer, for the sizes of what the all-to-all sends and receives; where
one rank has all experts it does not, but reads in the backward pass what was copied in the forward pass. Transformer
Engine's fused permutation is not used: it moves the same bytes, and a second way to the same rows would have to be held
to the same bits.

Relied upon beyond the abstract `MoETokenDispatcher`, and held by tests/model/test_dispatch.py: `MoELayer` calls the six
phases in order, keeps its dispatcher in `token_dispatcher`, and hands what its `dispatch` gives to
`routed_experts_compute` and what that gives to `combine`.
"""

from editcaption_mega.platform import megatron  # noqa: F401  isort: skip
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import (
    all_to_all,
    gather_from_sequence_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.moe.token_dispatcher import MoETokenDispatcher
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from editcaption_mega.kernels import ExpertOrder, chunk_order, expert_order, sum_rows

from .parallel.exchange import Exchange
from .parallel.grouped_experts import ExpertRows
from .parallel.linears import LanguageConfig


class HostCopy(NamedTuple):
    """Numbers of the device on their way to the host."""

    numbers: Tensor
    copied: torch.cuda.Event

    @classmethod
    def of(cls, numbers: Tensor) -> "HostCopy":
        on_host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        on_host.copy_(numbers, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        return cls(on_host, copied)

    def read(self) -> list[int]:
        """Waits for the copy alone, while the device goes on."""
        self.copied.synchronize()
        numbers: list[int] = self.numbers.tolist()
        return numbers


class Sizes(NamedTuple):
    """Rows that the collectives of one layer move, which the host must know, and those of each expert here."""

    experts: list[int]  # rows of each local expert
    sent: list[list[int]]  # of each piece, to each expert-parallel rank
    received: list[list[int]]  # of each piece, from each expert-parallel rank
    gathered: list[int]  # what each expert-tensor-parallel rank has received

    @classmethod
    def of(cls, numbers: list[int], num_local_experts: int, expert_parallel: int, pieces: int, rank: int) -> "Sizes":
        """numbers: `experts`, and for several ranks `sent` and what is received from each expert-parallel rank: of
        each piece, or where there is one of each expert-tensor-parallel rank."""
        experts, numbers = numbers[:num_local_experts], numbers[num_local_experts:]
        by_rank = [numbers[i : i + expert_parallel] for i in range(0, len(numbers), expert_parallel)]
        sent, received = by_rank[:pieces], by_rank[pieces:]
        return cls(experts, sent, received if pieces > 1 else received[rank : rank + 1], [sum(r) for r in received])


class SortingTokenDispatcher(MoETokenDispatcher):
    """Dropless dispatch over the expert-parallel group, and over the expert-tensor-parallel one behind it.

    Rows go out sorted by expert, so those for one rank lie together; they come in by sender and expert, and are sorted
    by expert for the grouped products."""

    def __init__(
        self,
        num_local_experts: int,
        first_expert: int,
        config: TransformerConfig,
        pg_collection: ProcessGroupCollection,
        pieces: int = 1,
    ):
        """pieces: in how many the rows travel, each of as many of the local experts; see `parallel.exchange`."""
        super().__init__(config, pg_collection)
        assert config.moe_expert_capacity_factor is None and not config.moe_router_padding_for_quantization
        assert pieces == 1 or (self.tp_size == 1 and num_local_experts % pieces == 0)
        self.own_experts = slice(first_expert, first_expert + num_local_experts)
        self.num_tokens, self.pieces = 0, pieces

    def dispatch_preprocess(self, tokens: Tensor, routing_map: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [.., h], routing_map and probs [tokens, experts] -> rows [tokens top_k, h] sorted by expert, and their
        probabilities [tokens top_k, 1]."""
        self.shape, self.num_tokens, self.probs_dtype = tokens.shape, routing_map.size(0), probs.dtype
        routing_map, probs = self._by_piece(routing_map), self._by_piece(probs)
        self.order: ExpertOrder | None = expert_order(routing_map, self.config.moe_router_topk)
        self._count(self.order.counts)
        by_row, by_choice = self.order.token_of_row[:, None], self.order.choice_of_row[:, None]
        rows = sum_rows(tokens.reshape(-1, self.shape[-1]), by_row, self.order.rows_of_token)
        return rows, sum_rows(probs.reshape(-1, 1), by_choice, self.order.row_of_choice.view(-1, 1))

    def _by_piece(self, experts: Tensor) -> Tensor:
        """[tokens, experts] with the experts of the first piece of each rank first."""
        if self.pieces == 1:
            return experts
        return experts.unflatten(1, (self.ep_size, self.pieces, -1)).transpose(1, 2).flatten(1)

    def _count(self, counts: Tensor) -> None:
        """Learn how many rows come here for each expert from each sender [senders, local experts], on the device, and
        send the host what it must know."""
        if self.ep_size * self.tp_size == 1:
            self.counts, self.copy = counts[None], HostCopy.of(counts)
            return
        everywhere = gather_from_sequence_parallel_region(counts, group=self.tp_ep_group)
        if self.pieces > 1:
            here = everywhere.view(self.ep_size, self.pieces, self.ep_size, -1)[:, :, self.ep_group.rank()]
            self.counts = here.flatten(1).contiguous()
            sent = counts.view(self.pieces, self.ep_size, -1).sum(2)
            numbers = self.counts.sum(0), sent.flatten(), here.sum(2).t().flatten()
            self.copy = HostCopy.of(torch.cat(numbers))
            return
        everywhere = everywhere.view(self.ep_size, self.tp_size, -1).transpose(0, 1)
        here = everywhere[:, :, self.own_experts].contiguous()  # [expert tp, ep, local experts]
        self.counts = here.flatten(0, 1)
        sent = counts.view(self.ep_size, -1).sum(1)
        self.copy = HostCopy.of(torch.cat((self.counts.sum(0), sent, here.sum(2).flatten())))

    def _sizes(self, copy: HostCopy, num_tokens: int) -> Sizes:
        """Of a row of so many tokens on this rank; waits for the copy."""
        num_local_experts = self.own_experts.stop - self.own_experts.start
        return Sizes.of(copy.read(), num_local_experts, self.ep_size, self.pieces, self.tp_rank)

    def token_dispatch(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that the experts of this rank get from the ranks of its expert-parallel group."""
        if self.ep_size * self.tp_size == 1:
            return hidden_states, probs
        self.sizes = self._sizes(self.copy, self.num_tokens)  # the one wait
        splits = self.sizes.received[0], self.sizes.sent[0]
        return all_to_all(self.ep_group, hidden_states, *splits), all_to_all(self.ep_group, probs, *splits)

    def dispatch_postprocess(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, ExpertRows, Tensor]:
        """-> rows sorted by expert [rows, h], how many each expert has, probabilities [rows]."""
        if self.tp_size > 1:
            hidden_states, probs = (
                gather_from_sequence_parallel_region(
                    tensor, group=self.tp_group, output_split_sizes=self.sizes.gathered
                )
                for tensor in (hidden_states, probs)
            )
        hidden_states, probs, self.chunks = by_expert(hidden_states, probs, self.counts)
        return hidden_states, ExpertRows(self.counts.sum(0), self._read_experts()), probs.squeeze(1)

    def _read_experts(self) -> Callable[[], list[int]]:
        """Reads the rows of each expert of this micro-batch, in its backward pass."""
        if self.ep_size * self.tp_size == 1:
            copy, num_tokens = self.copy, self.num_tokens
            return lambda: self._sizes(copy, num_tokens).experts
        experts = self.sizes.experts
        return lambda: experts

    def combine_preprocess(self, hidden_states: Tensor) -> Tensor:
        """The experts' rows, back in the order in which they came."""
        hidden_states = by_sender(hidden_states, self.chunks)
        if self.tp_size > 1:
            # Each expert-tensor-parallel rank has a part of every sum, which are added in the probabilities' precision.
            hidden_states = reduce_scatter_to_sequence_parallel_region(
                hidden_states.to(self.probs_dtype), group=self.tp_group, input_split_sizes=self.sizes.gathered
            ).to(hidden_states.dtype)
        return hidden_states

    def token_combine(self, hidden_states: Tensor) -> Tensor:
        """The rows that this rank has sent, with what the experts made of them."""
        if self.ep_size == 1:
            return hidden_states
        combined: Tensor = all_to_all(self.ep_group, hidden_states, self.sizes.sent[0], self.sizes.received[0])
        return combined

    def combine_postprocess(self, hidden_states: Tensor) -> Tensor:
        """The sum over the experts of each token, in the shape of the tokens; probabilities are in the rows already."""
        order, self.order, self.chunks = self.order, None, None
        assert order is not None, "tokens have been dispatched"
        return sum_rows(hidden_states, order.rows_of_token, order.token_of_row[:, None]).view(self.shape)


Chunks = tuple[Tensor, Tensor] | None  # where rows by expert were, and where those rows go; None: they lie alike


def by_expert(rows: Tensor, probs: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Chunks]:
    """Rows and probabilities as they come, by sender and expert -> by expert. counts: [senders, experts]."""
    if min(counts.shape) == 1:
        return rows, probs, None
    before, after = (order[:, None] for order in chunk_order(counts, rows.size(0)))
    return sum_rows(rows, before, after), sum_rows(probs, before, after), (before, after)


def by_sender(rows: Tensor, chunks: Chunks) -> Tensor:
    """The inverse."""
    return rows if chunks is None else sum_rows(rows, chunks[1], chunks[0])


class SortingMoELayer(MoELayer):
    """Megatron's mixture of experts with the dispatcher above.

    In pieces, what Megatron calls between router and sum is done here: each piece of the rows travels beside the
    products of another one."""

    def __init__(self, config: LanguageConfig, submodules=None, layer_number=None, pg_collection=None, **kwargs):
        super().__init__(config, submodules, layer_number, pg_collection, **kwargs)
        assert pg_collection is not None and not self.use_shared_expert
        first = self.local_expert_indices[0]
        self.pieces = config.expert_parts(self.num_local_experts, pg_collection.ep.size(), pg_collection.expt_tp.size())
        self.token_dispatcher = SortingTokenDispatcher(
            self.num_local_experts, first, config, pg_collection, self.pieces
        )

    def dispatch(self, hidden_states: Tensor, probs: Tensor) -> tuple[Any, Any]:
        """Rows and probabilities, sorted by expert, set out for the ranks of their experts."""
        if self.pieces == 1:
            return super().dispatch(hidden_states, probs)
        dispatcher = self.token_dispatcher
        dispatcher.sizes = dispatcher._sizes(dispatcher.copy, dispatcher.num_tokens)  # the one wait
        exchange = Exchange(dispatcher.ep_group, dispatcher.sizes.sent, dispatcher.sizes.received)
        return exchange, exchange.send(hidden_states, probs)

    def routed_experts_compute(self, hidden_states: Any, probs: Any) -> tuple[Any, None]:
        """What the experts make of each piece as it comes, on its way back."""
        if self.pieces == 1:
            return super().routed_experts_compute(hidden_states, probs)
        exchange, coming = hidden_states, probs
        counts = self.token_dispatcher.counts.chunk(self.pieces, 1)
        on_host = self.token_dispatcher.sizes.experts
        size, results = self.num_local_experts // self.pieces, []
        for piece, tensors in enumerate(coming):
            rows, probs = exchange.arrived(piece, *tensors)
            rows, probs, chunks = by_expert(rows, probs, counts[piece].contiguous())
            experts = slice(piece * size, (piece + 1) * size)
            of_experts = ExpertRows(counts[piece].sum(0), partial(list, on_host[experts]), experts)
            out, _ = self.experts(rows, of_experts, probs.squeeze(1))
            results.append(exchange.give_back(piece, by_sender(out, chunks)))
        return (exchange, results), None

    def combine(self, output: Any) -> Tensor:
        """The rows that this rank has sent, with what the experts made of them."""
        if self.pieces == 1:
            combined: Tensor = super().combine(output)
            return combined
        exchange, results = output
        return exchange.home(results)
