"""Layers over pipeline chunks: level where nothing is said, and by Megatron placed where the counts say."""

import pytest
from megatron.core.transformer.enums import LayerType
from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout

from editcaption_mega.model.pipeline_split import feature_routes, megatron_layout, split_layers, split_notes
from editcaption_mega.settings import ParallelSettings


def parallel(stages: int, virtual: int | None = None, **options) -> ParallelSettings:
    return ParallelSettings(
        pipeline_model_parallel_size=stages, virtual_pipeline_model_parallel_size=virtual, **options
    )


BOTH = dict(account_for_embedding_in_pipeline_split=True, account_for_loss_in_pipeline_split=True)


@pytest.mark.parametrize(
    "layers, settings, expected",
    [
        (8, parallel(1), [8]),
        (8, parallel(2), [4, 4]),
        (5, parallel(2), [2, 3]),
        (5, parallel(4), [1, 1, 2, 1]),
        (6, parallel(4), [1, 2, 2, 1]),
        (7, parallel(4), [1, 2, 2, 2]),
        (94, parallel(8), [11, 12, 12, 12, 12, 12, 12, 11]),
        (94, parallel(8, **BOTH), [11, 12, 12, 12, 12, 12, 12, 11]),
        (95, parallel(8, **BOTH), [11, 12, 12, 12, 12, 12, 13, 11]),
        (94, parallel(8, 4), [2] + [3] * 30 + [2]),
        (94, parallel(8, 4, **BOTH), [2] + [3] * 30 + [2]),
        (7, parallel(4, account_for_embedding_in_pipeline_split=True), [1, 2, 2, 2]),
        (5, parallel(2, 2), [1, 2, 1, 1]),
        (6, parallel(2, 2), [1, 2, 2, 1]),
        (7, parallel(2, 2), [1, 2, 2, 2]),
        (8, parallel(2, layers_per_chunk=[3, 5]), [3, 5]),
    ],
)
def test_level_splits(layers, settings, expected):
    assert split_layers(layers, settings) == expected


@pytest.mark.parametrize("stages, virtual", [(2, None), (5, None), (2, 3), (4, 4), (8, 2)])
@pytest.mark.parametrize("options", [{}, BOTH])
def test_a_level_split_is_level_over_stages_and_the_first_stage_has_least(stages, virtual, options):
    settings = parallel(stages, virtual, **options)
    chunks = settings.num_pipeline_chunks
    for layers in range(chunks, 4 * chunks):
        counts = split_layers(layers, settings)
        assert sum(counts) == layers
        shares = list(counts)
        shares[0] += bool(options)
        shares[-1] += bool(options)
        assert max(shares) - min(shares) <= 1, (layers, counts)
        of_stage = [sum(shares[stage::stages]) for stage in range(stages)]
        assert max(of_stage) - min(of_stage) <= 1 and of_stage[0] == min(of_stage), (layers, counts)


@pytest.mark.parametrize(
    "counts, features, expected",
    [
        ([4, 4], 3, [(0, 0), (0, 0)]),
        ([1, 7], 3, [(0, 2), (2, 0)]),
        ([0, 2, 1, 5], 3, [(0, 3), (3, 1), (1, 0), (0, 0)]),
        ([1, 7], 0, [(0, 0), (0, 0)]),
    ],
)
def test_features_travel_until_their_layer(counts, features, expected):
    assert [(route.received, route.sent) for route in feature_routes(counts, features)] == expected


def test_megatron_places_layers_where_the_counts_say():
    counts = [2, 3, 1, 2]
    layout = PipelineParallelLayerLayout(megatron_layout(counts), pipeline_model_parallel_size=2)
    layout.validate_layer_layout(num_layers=8, mtp_num_layers=None)
    held = [[layout.layout[chunk % 2][chunk // 2].count(LayerType.decoder)] for chunk in range(4)]
    assert held == [[count] for count in counts]
    assert layout.layout[0][0][0] == LayerType.embedding and layout.layout[1][1][-1] == LayerType.loss


def test_a_line_says_how_layers_that_do_not_divide_are_split():
    assert split_notes(8, parallel(2)) == []
    assert split_notes(5, parallel(2)) == ["5 layers over 2 pipeline chunks, as level as they go: 2, 3"]
    assert split_notes(94, parallel(8, 4)) == ["94 layers over 32 pipeline chunks, as level as they go: 2, 30 x 3, 2"]
    (line,) = split_notes(8, parallel(2, layers_per_chunk=[3, 5]))
    assert line == "8 layers over 2 pipeline chunks, as parallel.layers_per_chunk says: 3, 5"
