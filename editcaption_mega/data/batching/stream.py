"""Shards -> encoded samples -> the rows of each optimizer step, prepared ahead by threads.

Step n takes samples order.at(n G) .. order.at((n + 1) G - 1) for global batch size G, whatever the number of ranks:
the state of the stream is one integer, and a run resumes exactly at any data-parallel size.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from editcaption_mega.data.images.decode import decode_image
from editcaption_mega.data.shards.reader import ShardReader, open_shards
from editcaption_mega.data.text.prompt import ChatEncoder, Prompt, folder_notes, load_tokenizer
from editcaption_mega.records import EditPair

from .batch import Grid, PackedBatch
from .order import SampleOrder
from .packing import EncodedSample, collate, plan_rows
from .vision import ImageSettings, grid_tokens, image_grid, image_patches

# What answers the prompt: the instruction (SFT); chosen and rejected (preference); or chosen and rejected where a
# pair has them and its instruction elsewhere (scoring).
Answers = Literal["instruction", "preference", "either"]


class PairDataset:
    """Image pairs with their answers as token sequences. Indexable; lengths are known without reading pictures."""

    def __init__(
        self,
        shards: ShardReader,
        encoder: ChatEncoder,
        images: ImageSettings,
        *,
        answers: Answers = "instruction",
        shared_prompt: bool = True,
        notes: Iterable[str] = (),
    ):
        self.notes = list(notes)  # of the folder, for whoever tells the user
        self.shards, self.encoder, self.images = shards, encoder, images
        self.answers, self.shared_prompt = answers, shared_prompt

    def __len__(self) -> int:
        return len(self.shards)

    @property
    def fingerprints(self) -> dict[str, str]:
        """What the tokens and pictures of all samples depend on, part by part.

        Not `answers` or `shared_prompt`: they choose from the same data and the same numbers come out."""
        return {
            "shards": self.shards.fingerprint,
            **self.encoder.fingerprints,
            "pictures": hashlib.sha256(json.dumps(self.images.to_json()).encode()).hexdigest(),
        }

    @property
    def fingerprint(self) -> str:
        """Changes when any of the `fingerprints` does."""
        return hashlib.sha256(json.dumps(self.fingerprints).encode()).hexdigest()[:32]

    def id(self, i: int) -> str:
        return self.shards.meta(i).id

    def prompt(self, i: int) -> EncodedSample:
        """Sample i without its answer, for generation."""
        return self._encoded(i, ())

    def sample(self, i: int) -> EncodedSample:
        """Sample i with its answers. Raises ValueError, naming the sample, when they cannot be trained on."""
        pair = self.shards.pair(i)
        preference = self.answers == "preference" or (self.answers == "either" and pair.chosen is not None)
        answers = self._preference(pair) if preference else (self._instruction(pair),)
        return self._encoded(i, answers)

    def _instruction(self, pair: EditPair) -> tuple[int, ...]:
        if not pair.instruction:
            raise ValueError(
                f"sample {pair.id} has no instruction to train on: remove it (make_shards leaves such rows out "
                "unless --allow-missing-instruction is given) or write one"
            )
        return self._answer(pair.id, "instruction", pair.instruction)

    def _preference(self, pair: EditPair) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if pair.chosen is None or pair.rejected is None:
            raise ValueError(
                f"sample {pair.id} has no chosen and rejected answers to compare: remove it or write both "
                "(an instruction alone is for SFT)"
            )
        chosen = self._answer(pair.id, "chosen answer", pair.chosen)
        rejected = self._answer(pair.id, "rejected answer", pair.rejected)
        if chosen == rejected:
            raise ValueError(
                f"sample {pair.id}: chosen and rejected are the same {len(chosen)} tokens ({pair.chosen!r}), expected "
                "two different answers: remove the pair or change one of them"
            )
        return chosen, rejected

    def _answer(self, name: str, what: str, text: str) -> tuple[int, ...]:
        try:
            return self.encoder.answer_ids(text)
        except ValueError as error:
            raise ValueError(
                f"sample {name}: its {what} cannot be used ({error}): write some text or remove the sample"
            ) from None

    def length(self, i: int) -> int:
        """Tokens of sample i, pictures and answers included."""
        return self.sample(i).num_tokens

    def check(self, indices: range, sequence_length: int) -> list[str]:
        """One sentence for each sample that cannot be trained on."""
        problems = []
        for i in indices:
            try:
                sample = self.sample(i)
            except ValueError as error:
                problems.append(str(error))
                continue
            if sample.num_tokens > sequence_length:
                twice = len(sample.sequences) > 1
                problems.append(
                    f"sample {sample.id} takes {sample.num_tokens} tokens, more than "
                    f"data.sequence_length={sequence_length}: raise it or lower data.max_pixels"
                    + (" (or set data.shared_prompt=true: the prompt is in there twice)" if twice else "")
                )
        return problems

    def _encoded(self, i: int, answers: tuple[tuple[int, ...], ...]) -> EncodedSample:
        meta = self.shards.meta(i)
        sizes = {"source": meta.source_size, "target": meta.target_size}
        grids = tuple(self._grid(meta.id, which, size) for which, size in sizes.items())
        tokens = [grid_tokens(grid, self.images.merge_size) for grid in grids]

        def patches(picture: int) -> torch.Tensor:
            sample = self.shards[i]
            which, size = list(sizes.items())[picture]
            data = (sample.source_bytes, sample.target_bytes)[picture]
            image = decode_image(data, where=f"{sample.pair.id} ({which})")
            if image.size != tuple(size):
                raise ValueError(
                    f"sample {meta.id}: its {which} picture has {image.width} x {image.height} pixels, index.json says "
                    f"{size[0]} x {size[1]}: the shards were changed after they were made; make them again"
                )
            return image_patches(image, self.images)

        prompt = tuple(self.encoder.prompt_ids(*tokens))
        return EncodedSample(meta.id, prompt, answers, grids, patches, self.shared_prompt)

    def _grid(self, name: str, which: str, size: tuple[int, int]) -> Grid:
        try:
            return image_grid(*size, self.images)
        except ValueError as error:
            raise ValueError(
                f"sample {name}: its {which} picture cannot be used ({error}): crop it or remove the sample"
            ) from None


def open_pairs(
    shards: list[str],
    folder: str | Path,
    *,
    min_pixels: int,
    max_pixels: int,
    prompt: str | Path = "",
    answers: Answers = "instruction",
    shared_prompt: bool = True,
) -> PairDataset:
    """Shards as seen by the model of a Hugging Face folder: its tokenizer, its picture settings, one prompt.

    `answers` says what a sample is: an instruction, or a preference pair, whose prompt its two answers share in one
    row unless `shared_prompt` is false. Raises ValueError for shards, folder or prompt that cannot be used."""
    encoder, images = read_folder(folder, min_pixels=min_pixels, max_pixels=max_pixels, prompt=prompt)
    notes = folder_notes(folder, encoder.tokenizer)
    return PairDataset(open_shards(shards), encoder, images, answers=answers, shared_prompt=shared_prompt, notes=notes)


def read_folder(
    folder: str | Path, *, min_pixels: int, max_pixels: int, prompt: str | Path = ""
) -> tuple[ChatEncoder, ImageSettings]:
    """What makes tokens and patches of pairs for the model of a folder. Raises ValueError for what cannot be used."""
    encoder = ChatEncoder(load_tokenizer(folder), Prompt.load(prompt))
    return encoder, ImageSettings.from_folder(folder, min_pixels=min_pixels, max_pixels=max_pixels)


@dataclass(frozen=True)
class RowSettings:
    """How the rows of a step are made, and which part of them this rank needs."""

    global_batch_size: int
    sequence_length: int
    packing: bool = True
    data_parallel_size: int = 1
    data_parallel_rank: int = 0
    row_multiple: int = 1  # rows per data-parallel rank come in multiples of this (interleaved pipelining)
    length_multiple: int = 1  # a row's length is a multiple of this (tensor-parallel ranks)
    with_images: bool = True
    num_vision_ranks: int = 1
    vision_rank: int = 0


class StepStream:
    """The rows of each step for one rank: a pure function of the step number."""

    def __init__(self, dataset: PairDataset, order: SampleOrder, rows: RowSettings, *, table_side: int):
        self.dataset, self.order, self.rows, self.table_side = dataset, order, rows, table_side
        encoder, pad = dataset.encoder, dataset.encoder.tokenizer.pad_token_id
        # Any token will do behind the last sample, but one that stands for a part of a picture.
        self._pad = encoder.end_token_id if pad in (None, encoder.image_token_id) else pad

    def plan(self, step: int) -> list[list[EncodedSample]]:
        """All rows of a step, for all ranks; equal on every rank."""
        size = self.rows.global_batch_size
        samples = [self.dataset.sample(self.order.at(step * size + k)) for k in range(size)]
        multiple = self.rows.data_parallel_size * self.rows.row_multiple
        lengths = [sample.num_tokens for sample in samples]
        plan = plan_rows(lengths, self.rows.sequence_length, multiple, self.rows.packing)
        return [[samples[i] for i in row] for row in plan]

    def tasks(self, step: int) -> tuple[list[list[EncodedSample]], int, int]:
        """This rank's rows of a step, their common length in tokens, and the response tokens of the whole step."""
        plan = self.plan(step)
        longest = max(sum(sample.num_tokens for sample in row) for row in plan)
        multiple = self.rows.length_multiple
        length = -(-longest // multiple) * multiple
        responses = sum(len(sample.answer_ids) for row in plan for sample in row)
        return plan[self.rows.data_parallel_rank :: self.rows.data_parallel_size], length, responses

    def collate(self, row: list[EncodedSample], length: int) -> PackedBatch:
        return collate(
            row,
            length,
            image_settings=self.dataset.images,
            image_token_id=self.dataset.encoder.image_token_id,
            pad_token_id=self._pad,
            table_side=self.table_side,
            with_images=self.rows.with_images,
            num_vision_ranks=self.rows.num_vision_ranks,
            vision_rank=self.rows.vision_rank,
        )


@dataclass
class Step:
    """What one optimizer step computes on this rank."""

    number: int
    rows: list[PackedBatch]
    row_length: int  # tokens, the same for every row of the step on every rank
    response_tokens: int  # of the whole step over all ranks: what its mean loss is over (SFT)
    num_samples: int  # of the whole step over all ranks (preference: its pairs)


def prefetched_steps(stream: StepStream, first: int, last: int, *, ahead: int, workers: int) -> Iterator[Step]:
    """Steps first .. last - 1 in order, their rows built `ahead` steps before by `workers` threads.

    An error in a thread (a picture that cannot be decoded) is raised here, at the step that needs it."""
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="rows") as pool:
        pending: deque[tuple[int, list[Future], int, int]] = deque()

        def submit(step: int) -> None:
            rows, length, responses = stream.tasks(step)
            pending.append((step, [pool.submit(stream.collate, row, length) for row in rows], length, responses))

        try:
            upcoming = first
            while upcoming < last or pending:
                while upcoming < last and len(pending) < ahead:
                    submit(upcoming)
                    upcoming += 1
                step, futures, length, responses = pending.popleft()
                rows = [future.result() for future in futures]
                yield Step(step, rows, length, responses, stream.rows.global_batch_size)
        finally:
            for _, futures, _, _ in pending:
                for future in futures:
                    future.cancel()
