"""Qwen3-VL: the vision tower, the merge of its tokens into the text, and the language model on Megatron's GPTModel.

Input is one packed row (`PackedBatch`); output is one log-probability per response token, or the logits of the row.
Source of the mathematics: transformers' Qwen3VLForConditionalGeneration (parity in docs/parity.md).
"""

from editcaption_mega.platform import megatron  # noqa: F401  isort: skip
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from editcaption_mega import platform
from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.kernels import linear_log_probs
from editcaption_mega.settings import ModelSettings

from .adapters import AdaptedVisionLinear, attach_adapters, begin_row
from .architecture import Architecture
from .attention import Segments
from .layers import block_spec
from .parallel.linears import LanguageConfig, Linear
from .parallel.marks import mark
from .pipeline_split import FeatureRoute
from .recompute import recomputes_vision
from .rotary import text_angles
from .shared_weights import share_weights, without_weights
from .vision import VisionTower, gather_images

# What the last stage computes for the response tokens: the log-prob of each, whatever an objective's head makes of
# (hidden states [T, h], LM-head weight shard [V/tp, h], batch, the keywords of `linear_log_probs`), or the logits of
# the whole row.
Head = Callable[..., Any]
Output = Literal["log_probs", "logits"] | Head


class Qwen3VLModel(MegatronModule):
    """One pipeline chunk. The vision tower lives with the embedding (`pre_process`), the LM head on the last chunk."""

    def __init__(
        self,
        config: LanguageConfig,
        architecture: Architecture,
        settings: ModelSettings,
        route: FeatureRoute,
        *,
        pre_process: bool,
        post_process: bool,
        vp_stage: int | None = None,
        weights: Mapping[str, torch.nn.Parameter] | None = None,
    ):
        """weights: by name, all but the adapters', of another model that this one shares them with; None: own ones,
        uninitialized."""
        platform.require_prepared()
        super().__init__(config=config)
        self.architecture = architecture
        self.pre_process, self.post_process, self.vp_stage = pre_process, post_process, vp_stage
        self.route = route
        self.input_tensor: Tensor | None = None
        self.share_embeddings_and_output_weights = architecture.tied_embeddings
        with without_weights(weights is not None):
            language = GPTModel(
                config,
                block_spec(config, settings, vp_stage),
                vocab_size=architecture.vocab_size,
                max_sequence_length=0,  # used by learned positions only
                pre_process=pre_process,
                post_process=post_process,
                share_embeddings_and_output_weights=architecture.tied_embeddings,
                position_embedding_type="none",  # attention rotates by the angles of `Segments`
                scatter_embedding_sequence_parallel=False,
                vp_stage=vp_stage,
            )
        self.model_type = language.model_type
        self.tensor_group = language.pg_collection.tp
        self.kernels, self.max_logits_bytes = settings.kernels, int(settings.max_logits_gib * 2**30)
        self.vision = None
        if pre_process:
            with torch.device("meta"):  # no values are drawn and no memory is taken: every weight is read later
                vision = VisionTower(
                    architecture.vision,
                    recompute=recomputes_vision(settings),
                    group=self.tensor_group if config.sequence_parallel else None,
                    fused_weight_gradients=config.fused_weight_gradients,
                    linear=Linear if config.adapters is None else AdaptedVisionLinear,
                )
            vision = vision.to(dtype=config.params_dtype)
            self.vision = vision.to_empty(device=platform.device()) if weights is None else vision
        self.language = language  # behind the tower: weights are gathered in the order of `parameters()`
        if weights is not None:
            share_weights(self, weights)
        if config.adapters is not None:
            layers = {str(i): layer.layer_number - 1 for i, layer in enumerate(language.decoder.layers)}
            attach_adapters(self, config.adapters, layers)
        for parameter in self.vision.parameters() if self.vision is not None else ():
            # Each tensor-parallel rank sees its own patches: Megatron sums these gradients over the ranks.
            mark(parameter, sequence_parallel=config.sequence_parallel)

    def set_input_tensor(self, input_tensor) -> None:
        """Megatron's pipeline schedule hands what the previous chunk returned here."""
        self.input_tensor = input_tensor[0] if isinstance(input_tensor, list) else input_tensor

    def shared_embedding_or_output_weight(self) -> Tensor:
        """For Megatron's gradient sum of tied weights on the first and last stage."""
        return self.language.shared_embedding_or_output_weight()

    def forward(self, batch: PackedBatch, output: Output = "log_probs") -> Any:
        """One row -> what `output` says: log-probs [response tokens] fp32, logits [row, vocabulary], or what a head
        returns. Between chunks hidden states, with DeepStack features behind them where they travel."""
        padding_mask, sizes = batch.padding_mask, self.architecture
        if self.training and self.config.adapters is not None:
            begin_row(self.config.adapters, " ".join(batch.sample_ids))
        angles = text_angles(batch.position_ids, sizes.head_dim, sizes.rope_theta, sizes.mrope_section)
        decoder_input, features = self._merge(batch) if self.pre_process else (None, self._receive())
        num_layers = len(self.language.decoder.layers)
        if decoder_input is not None and self.config.recompute_granularity and torch.is_grad_enabled():
            # Megatron's recomputation gives no gradient where its input has none, as under frozen embeddings.
            decoder_input.requires_grad_()
        if self.config.sequence_parallel:
            by_rank = self.config.row_parts(padding_mask.size(1)).by_rank(padding_mask, 1)
            padding_mask = by_rank.chunk(self.tensor_group.size(), 1)[self.tensor_group.rank()].contiguous()
        result = self.language(
            batch.input_ids,
            batch.position_ids,
            None,
            decoder_input=decoder_input,
            packed_seq_params=Segments.of(batch, angles),
            padding_mask=padding_mask if self.config.num_moe_experts else None,
            extra_block_kwargs=None if features is None else {"context": features[:num_layers]},
            output_processor=self._logits if output == "logits" else partial(self._response_head, output),
            output_processor_context=batch,
        )
        if not self.route.sent:
            return result
        if features is None:  # of a row without pictures
            passed_on = result.new_zeros(self.route.sent, *result.shape)
        else:
            passed_on = features[num_layers:]
        return torch.cat([result, *passed_on])

    def _receive(self) -> Tensor | None:
        """Hands the hidden states of the previous chunk to the language model -> the DeepStack features behind them
        [features, s/tp, 1, h]."""
        assert self.input_tensor is not None, "the schedule has handed over what the previous chunk returned"
        if not self.route.received:
            self.language.set_input_tensor(self.input_tensor)
            return None
        parts = self.input_tensor.unflatten(0, (1 + self.route.received, -1))
        self.language.set_input_tensor(parts[0])
        return parts[1:]

    def _merge(self, batch: PackedBatch) -> tuple[Tensor, Tensor | None]:
        """Embeddings with visual tokens in place [s/tp, 1, h], DeepStack features [DeepStack layers, s/tp, 1, h]."""
        assert self.vision is not None and batch.images is not None, "the first chunk has the tower and the images"
        embedded = self.language.embedding(input_ids=batch.input_ids, position_ids=None)  # [s, 1, h]
        visual = self.vision(batch.images)
        visual = gather_images(visual, batch.images, self.tensor_group).to(embedded.dtype)
        if not batch.images.num_tokens:
            # A row without pictures: features of nothing keep every vision gradient defined.
            embedded, features = embedded + visual.sum(), None
        else:
            positions = batch.visual_positions  # [visual tokens], in the sequence
            embedded = embedded.index_copy(0, positions, visual[:, None, 0])
            features = visual.new_zeros(embedded.size(0), 1, visual.size(1) - 1, visual.size(2))
            features = features.index_copy(0, positions, visual[:, None, 1:])
        if self.config.sequence_parallel:
            embedded = self._scatter(embedded)
            features = None if features is None else self._scatter(features)
        return embedded, None if features is None else features.permute(2, 0, 1, 3)

    def _scatter(self, row: Tensor) -> Tensor:
        """A row [s, ..] -> what this rank holds of it [s/tp, ..]."""
        by_rank = self.config.row_parts(row.size(0)).by_rank(row)
        own = tensor_parallel.scatter_to_sequence_parallel_region(by_rank, group=self.tensor_group)
        return own.clone()  # Megatron's part is a view, by which the whole row would be kept until the backward pass

    def _response_head(
        self, head: Output, hidden_states: Tensor, output_layer, output_weight, context: PackedBatch, **_
    ) -> Any:
        """Only the hidden states that predict a response token reach the LM head."""
        weight = output_layer.weight if output_weight is None else output_weight
        hidden = self._response_hidden(hidden_states.squeeze(1), context)
        group = self.tensor_group if self.tensor_group.size() > 1 else None
        options: dict[str, Any] = dict(
            group=group,
            backend=self.kernels,
            max_logits_bytes=self.max_logits_bytes,
            validate_targets=hidden.device.type == "cpu",  # every target is an input too, and the embedding has seen it
        )
        if isinstance(head, str):  # "log_probs"
            return linear_log_probs(hidden, weight, context.targets, **options)
        return head(hidden, weight, context, **options)

    def _response_hidden(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """hidden [s/tp, h] -> hidden states that predict a response token [T, h], all of them on each rank.

        The last one of a shared prompt is picked twice, once for each answer; its gradients add up."""
        tensor_size = self.tensor_group.size()
        if not self.config.sequence_parallel:
            hidden = tensor_parallel.copy_to_tensor_model_parallel_region(hidden, group=self.tensor_group)
            return hidden.index_select(0, batch.target_positions)
        # Each rank picks its own, padded to the longest pick, before the all-gather.
        parts = self.config.row_parts(hidden.size(0) * tensor_size)
        picks: list[list[int]] = [[] for _ in range(tensor_size)]
        places = []  # (rank, place in its pick) of each target: positions do not rise where a prompt is shared
        for token in batch.target_positions_host:
            rank, place = parts.place(token)
            places.append((rank, len(picks[rank])))
            picks[rank].append(place)
        longest = max(1, *(len(pick) for pick in picks))
        mine = picks[self.tensor_group.rank()]
        padding = [0] * (longest - len(mine))
        order = [rank * longest + i for rank, i in places]
        # One copy that the host does not wait for (see `kernels.library_common.bounds_on`).
        indices = torch.tensor([*mine, *padding, *order]).to(hidden.device, non_blocking=True)
        own, order_of_all = indices.split([longest, len(order)])
        gathered = tensor_parallel.gather_from_sequence_parallel_region(
            hidden.index_select(0, own), tensor_parallel_output_grad=True, group=self.tensor_group
        )
        return gathered.index_select(0, order_of_all)

    def _logits(self, hidden_states: Tensor, output_layer, output_weight, context: PackedBatch, **_) -> Tensor:
        """All logits of the row [s, vocabulary] on every rank: for parity tests, not for training."""
        weight = output_layer.weight if output_weight is None else output_weight
        if self.config.sequence_parallel:
            hidden_states = tensor_parallel.gather_from_sequence_parallel_region(
                hidden_states, tensor_parallel_output_grad=True, group=self.tensor_group
            )
            hidden_states = self.config.row_parts(hidden_states.size(0)).in_order(hidden_states)
        else:
            hidden_states = tensor_parallel.copy_to_tensor_model_parallel_region(hidden_states, group=self.tensor_group)
        logits = F.linear(hidden_states.squeeze(1), weight)
        return tensor_parallel.gather_from_tensor_model_parallel_region(logits, group=self.tensor_group)
