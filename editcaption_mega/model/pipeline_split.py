"""Which decoder layers each pipeline chunk holds.

Chunks are counted along the network: chunk c lies on pipeline stage c % PP, so that with virtual stages each stage
holds every PP-th chunk. The first has the embedding and the vision tower beside its layers, the last the LM head.
"""

from dataclasses import dataclass
from itertools import accumulate, groupby

from editcaption_mega.settings import ParallelSettings


def split_layers(num_layers: int, parallel: ParallelSettings) -> list[int]:
    """Layers of each chunk, in the order of the network: `parallel.layers_per_chunk`, or as level as they go.

    Raises ValueError for a list that has not all layers, and for more chunks than there are layers for."""
    if parallel.layers_per_chunk is not None:
        counts = list(parallel.layers_per_chunk)
        if sum(counts) != num_layers:
            raise ValueError(
                f"parallel.layers_per_chunk={counts} has {sum(counts)} layers, the model has {num_layers}: change the "
                "counts, or set it to null for a level split"
            )
        return counts
    chunks = parallel.num_pipeline_chunks
    embedding, loss = parallel.account_for_embedding_in_pipeline_split, parallel.account_for_loss_in_pipeline_split
    each, rest = divmod(num_layers + embedding + loss, chunks)
    counts = [each] * chunks
    for chunk in sorted(range(chunks), key=lambda chunk: _place_in_turn(chunk, parallel))[:rest]:
        counts[chunk] += 1
    counts[0] -= embedding
    counts[-1] -= loss
    if each == 0 or min(counts) < 0:
        raise ValueError(
            f"{num_layers} layers are too few for {chunks} pipeline chunks: lower "
            "parallel.pipeline_model_parallel_size or parallel.virtual_pipeline_model_parallel_size"
        )
    return counts


def _place_in_turn(chunk: int, parallel: ParallelSettings) -> tuple[int, bool, bool, int]:
    """Chunks sorted by this take one more layer first.

    Each stage takes its turn before any has a second; the last stage and the first, which have more to do, take theirs
    at the end, and so do the last and the first chunk among those of their stage. Of the others later stages are first:
    they hold the activations of fewer rows."""
    stages, last = parallel.pipeline_model_parallel_size, parallel.num_pipeline_chunks - 1
    stage = chunk % stages
    of_stage = [c for c in range(last, -1, -1) if c % stages == stage]
    of_stage.sort(key=lambda c: c in (0, last))
    return of_stage.index(chunk), stage == 0, stage == stages - 1, -stage


@dataclass(frozen=True)
class FeatureRoute:
    """DeepStack features that travel with the hidden states: the chunks before hold fewer layers than take them.

    A tensor between chunks is [hidden states, features of the next layer, of the one after it, ..] along its first
    axis, in parts of one size."""

    received: int  # from the chunk before: for this chunk's first layers, and what it passes on
    sent: int  # to the next chunk


def feature_routes(counts: list[int], num_features: int) -> list[FeatureRoute]:
    """The route of each chunk; num_features: layers from the first that take one."""
    sent = [max(0, num_features - layers) for layers in accumulate(counts)]
    return [FeatureRoute(*both) for both in zip([0, *sent[:-1]], sent, strict=True)]


def megatron_layout(counts: list[int]) -> list[list[str]]:
    """The same split as Megatron's `pipeline_model_parallel_layout`."""
    layout = [["decoder"] * count for count in counts]
    layout[0].insert(0, "embedding")
    layout[-1].append("loss")
    return layout


def split_notes(num_layers: int, parallel: ParallelSettings) -> list[str]:
    """A line for the log where chunks hold unequal numbers of layers."""
    counts = split_layers(num_layers, parallel)
    if len(set(counts)) == 1:
        return []
    runs = [(count, len(list(same))) for count, same in groupby(counts)]
    words = ", ".join(str(count) if times == 1 else f"{times} x {count}" for count, times in runs)
    why = "as parallel.layers_per_chunk says" if parallel.layers_per_chunk is not None else "as level as they go"
    return [f"{num_layers} layers over {len(counts)} pipeline chunks, {why}: {words}"]
