"""Floating-point operations of a batch's forward pass: what a step must compute, whatever else it does.

By the rule of the planner and of PyTorch's counter: 2 per multiply-add of matrix products and of attention, of causal
attention only what is not masked; padding, recomputation and elementwise operations do not count. A backward pass takes
twice as many, one for the gradients of what it read and one for those of the weights (`passes`).
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from editcaption_mega.data.batching.batch import ImageBatch, PackedBatch

from .architecture import Architecture, VisionArchitecture
from .parallel.adapter_plan import AdapterPlan


def passes(adapters: AdapterPlan | None) -> tuple[int, int]:
    """How many times the forward pass's operations a step takes, of the language model and of the vision tower.

    Beside adapters there are no gradients of weights, and of a tower without adapters none at all. What adapters
    themselves take, and that attention's backward pass takes twice as many whatever is trained, is not counted: two or
    three per cent of a row of a few thousand tokens."""
    if adapters is None:
        return 3, 3
    return 2, 2 if any(name.startswith("vision.") for name in adapters.parts) else 1


def language_flops(architecture: Architecture, batch: PackedBatch) -> float:
    """Of the language model: all layers, and the LM head for the tokens that predict a response."""
    return _language(architecture, batch.num_tokens, _causal_pairs(batch), len(batch.targets))


def sample_flops(
    architecture: Architecture, tokens: np.ndarray, answers: np.ndarray, patches: np.ndarray, *, shared_prompt: bool
) -> np.ndarray:
    """Of samples [n] float64, the language model's and the vision tower's, as of a batch that holds them.

    tokens [n]: of a sample, its prompt once for all answers, or for each; answers [n, k]: tokens of each answer, 0 for
    none; patches [n, p]: of each picture."""
    answers, patches = answers.astype(np.float64), patches.astype(np.float64)
    prompts = np.ones(len(tokens)) if shared_prompt else np.count_nonzero(answers, 1).clip(1)
    prompt = (tokens - answers.sum(1)) / prompts
    pairs = prompts * prompt * (prompt + 1) / 2 + (answers * prompt[:, None] + answers * (answers + 1) / 2).sum(1)
    vision = architecture.vision
    language: np.ndarray = _language(architecture, tokens, pairs, answers.sum(1))
    return language + prompts * _vision(vision, patches.sum(1) / vision.spatial_merge_size**2, (patches**2).sum(1))


def _language[Number: (float, np.ndarray)](a: Architecture, tokens: Number, pairs: Number, predicted: Number) -> Number:
    attention = a.hidden_size * a.head_dim * 2 * (a.num_heads + a.num_kv_heads)  # queries, output, keys, values
    if a.experts is None:
        feed_forward = 3 * a.hidden_size * a.intermediate_size
    else:
        one_expert = 3 * a.hidden_size * a.experts.intermediate_size
        feed_forward = a.hidden_size * a.experts.num_experts + a.experts.experts_per_token * one_expert
    products = tokens * (attention + feed_forward)
    scores = 2 * a.num_heads * a.head_dim * pairs
    head = predicted * a.hidden_size * a.vocab_size
    return 2.0 * (a.num_layers * (products + scores) + head)


def _causal_pairs(batch: PackedBatch) -> int:
    """Query-key pairs that attention looks at: the last query of a segment sees all of its keys."""
    pairs = 0
    for (start, end), (first_key, last_key) in zip(pairwise(batch.bounds), pairwise(batch.key_bounds), strict=True):
        if start < batch.num_tokens:  # what is behind is padding
            queries, keys = end - start, last_key - first_key
            pairs += queries * (keys - queries) + queries * (queries + 1) // 2
    return pairs


def vision_flops(vision: VisionArchitecture, images: ImageBatch) -> float:
    """Of the vision tower, for all pictures of the sequence, whichever ranks compute them."""
    patches = images.num_tokens * vision.spatial_merge_size**2
    return _vision(vision, images.num_tokens, _full_pairs(images.bounds, patches))


def _vision[Number: (float, np.ndarray)](vision: VisionArchitecture, tokens: Number, pairs: Number) -> Number:
    patches = tokens * vision.spatial_merge_size**2
    hidden, merged = vision.hidden_size, vision.merged_size
    embedding = vision.in_channels * vision.patch_size**2 * hidden
    block = 4 * hidden**2 + 2 * hidden * vision.intermediate_size
    scores = 2 * hidden * pairs
    mergers = (1 + len(vision.deepstack_layers)) * (merged**2 + merged * vision.out_hidden_size)
    return 2.0 * (patches * (embedding + vision.depth * block) + vision.depth * scores + tokens * mergers)


def _full_pairs(bounds: Sequence[int], patches: int) -> int:
    return sum((end - start) ** 2 for start, end in pairwise(bounds) if start < patches)
