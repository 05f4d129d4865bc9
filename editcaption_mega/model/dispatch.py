"""How tokens reach the ranks of their experts and come back: a dispatcher of our own behind Megatron's interface.

Megatron's all-to-all dispatcher cuts what it receives into a chunk for each expert of each sender, in Python, waits for
the host to know their sizes, and adds results up with atomics in bf16 where Transformer Engine is not installed. This
one sends the same rows in the same order and sorts them by indices made on the device (`kernels.expert_rows`); sums are
in fp32 and in one order. The host waits once in a layer, for the sizes of what the all-to-all sends and receives, and
not at all where one rank has all experts. Transformer Engine's fused permutation is not used: it moves the same bytes,
and a second way to the same rows would have to be held to the same bits.

Relied upon beyond the abstract `MoETokenDispatcher`, and held by tests/model/test_dispatch.py: `MoELayer` calls the six
phases in order, and keeps its dispatcher in `token_dispatcher`.
"""

from typing import NamedTuple

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


class Sizes(NamedTuple):
    """Rows that the collectives of one layer move, which the host must know."""

    sent: list[int]  # to each expert-parallel rank
    received: list[int]  # from each expert-parallel rank
    gathered: list[int]  # what each expert-tensor-parallel rank has received

    @classmethod
    def of(cls, numbers: list[int], expert_parallel: int, rank: int) -> "Sizes":
        """numbers: `sent`, and then what each expert-tensor-parallel rank receives from each expert-parallel one."""
        sent, *received = (numbers[i : i + expert_parallel] for i in range(0, len(numbers), expert_parallel))
        return cls(sent, received[rank], [sum(part) for part in received])


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
    ):
        super().__init__(config, pg_collection)
        assert config.moe_expert_capacity_factor is None and not config.moe_router_padding_for_quantization
        self.own_experts = slice(first_expert, first_expert + num_local_experts)
        self.num_tokens = 0

    def dispatch_preprocess(self, tokens: Tensor, routing_map: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [.., h], routing_map and probs [tokens, experts] -> rows [tokens top_k, h] sorted by expert, and their
        probabilities [tokens top_k, 1]."""
        self.shape, self.num_tokens, self.probs_dtype = tokens.shape, routing_map.size(0), probs.dtype
        self.order: ExpertOrder | None = expert_order(routing_map, self.config.moe_router_topk)
        self._count(self.order.counts)
        by_row, by_choice = self.order.token_of_row[:, None], self.order.choice_of_row[:, None]
        rows = sum_rows(tokens.reshape(-1, self.shape[-1]), by_row, self.order.rows_of_token)
        return rows, sum_rows(probs.reshape(-1, 1), by_choice, self.order.row_of_choice.view(-1, 1))

    def _count(self, counts: Tensor) -> None:
        """Learn how many rows come here for each expert from each sender [senders, local experts], on the device, and
        send the host what it must know."""
        if self.ep_size * self.tp_size == 1:
            self.counts = counts[None]
            return
        everywhere = gather_from_sequence_parallel_region(counts, group=self.tp_ep_group)
        everywhere = everywhere.view(self.ep_size, self.tp_size, -1).transpose(0, 1)
        here = everywhere[:, :, self.own_experts].contiguous()  # [expert tp, ep, local experts]
        self.counts = here.flatten(0, 1)
        sizes = torch.cat((counts.view(self.ep_size, -1).sum(1), here.sum(2).flatten()))
        self.on_host = torch.empty(sizes.shape, dtype=sizes.dtype, pin_memory=True)
        self.on_host.copy_(sizes, non_blocking=True)
        self.copied = torch.cuda.Event()
        self.copied.record()

    def _sizes(self) -> Sizes:
        """The one wait: for the copy alone, while the device goes on to sort the rows."""
        self.copied.synchronize()
        return Sizes.of(self.on_host.tolist(), self.ep_size, self.tp_rank)

    def token_dispatch(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that the experts of this rank get from the ranks of its expert-parallel group."""
        if self.ep_size * self.tp_size == 1:
            return hidden_states, probs
        self.sizes = self._sizes()
        splits = self.sizes.received, self.sizes.sent
        return all_to_all(self.ep_group, hidden_states, *splits), all_to_all(self.ep_group, probs, *splits)

    def dispatch_postprocess(self, hidden_states: Tensor, probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> rows sorted by expert [rows, h], how many each expert has [local experts] on the device, probabilities
        [rows]."""
        if self.tp_size > 1:
            hidden_states, probs = (
                gather_from_sequence_parallel_region(
                    tensor, group=self.tp_group, output_split_sizes=self.sizes.gathered
                )
                for tensor in (hidden_states, probs)
            )
        self.chunks: tuple[Tensor, Tensor] | None = None
        if min(self.counts.shape) > 1:
            before, after = chunk_order(self.counts, hidden_states.size(0))
            before, after = self.chunks = before[:, None], after[:, None]
            hidden_states, probs = sum_rows(hidden_states, before, after), sum_rows(probs, before, after)
        return hidden_states, self.counts.sum(0), probs.squeeze(1)

    def combine_preprocess(self, hidden_states: Tensor) -> Tensor:
        """The experts' rows, back in the order in which they came."""
        if self.chunks is not None:
            before, after = self.chunks
            hidden_states = sum_rows(hidden_states, after, before)
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
        combined: Tensor = all_to_all(self.ep_group, hidden_states, self.sizes.sent, self.sizes.received)
        return combined

    def combine_postprocess(self, hidden_states: Tensor) -> Tensor:
        """The sum over the experts of each token, in the shape of the tokens; probabilities are in the rows already."""
        order, self.order, self.chunks = self.order, None, None
        assert order is not None, "tokens have been dispatched"
        return sum_rows(hidden_states, order.rows_of_token, order.token_of_row[:, None]).view(self.shape)


class SortingMoELayer(MoELayer):
    """Megatron's mixture of experts with the dispatcher above."""

    def __init__(self, config: TransformerConfig, submodules=None, layer_number=None, pg_collection=None, **kwargs):
        super().__init__(config, submodules, layer_number, pg_collection, **kwargs)
        assert pg_collection is not None and not self.use_shared_expert
        first = self.local_expert_indices[0]
        self.token_dispatcher = SortingTokenDispatcher(self.num_local_experts, first, config, pg_collection)
