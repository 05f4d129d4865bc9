"""For which held-out pairs a job writes texts, and whether these have room."""

from collections.abc import Iterable

from editcaption_mega.data import SampleOrder
from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.data.batching.sample import EncodedSample
from editcaption_mega.settings import SampleSettings


def sampled_numbers(size: int, settings: SampleSettings) -> list[int]:
    """Which of so many pairs are sampled: all, where there are no more; a pure function."""
    order = SampleOrder(size, settings.seed)
    return [order.at(position) for position in range(min(settings.pairs, size))]


def check_samples_fit(dataset: PairDataset, settings: SampleSettings, sequence_length: int) -> None:
    """Raises ValueError for held-out pairs behind whose prompts a text has no room."""
    numbers = sampled_numbers(len(dataset), settings)
    check_room(map(dataset.prompt, numbers), sequence_length, settings.max_new_tokens)


def check_room(prompts: Iterable[EncodedSample], sequence_length: int, max_new_tokens: int) -> None:
    """Raises ValueError for a prompt behind which so many tokens do not fit into a row."""
    for prompt in prompts:
        if len(prompt.prompt_ids) + max_new_tokens > sequence_length:
            raise ValueError(
                f"sample {prompt.id}: its prompt of {len(prompt.prompt_ids)} tokens and {max_new_tokens} new ones are "
                f"more than data.sequence_length={sequence_length}: raise it, or lower samples.max_new_tokens"
            )
