"""Shards as a model sees them: pairs and their answers as tokens, whose counts are known before training begins."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from editcaption_mega.data.images.patches import ImageSettings, grid_tokens, image_grid
from editcaption_mega.data.shards.reader import SIDES, ShardReader, open_shards
from editcaption_mega.data.shards.unreadable import SamplePlace, is_bad_data
from editcaption_mega.data.text.prompt import ChatEncoder, Prompt, folder_notes, load_tokenizer
from editcaption_mega.records import EditPair

from .sample import EncodedSample, ImageRef

# What answers the prompt: the instruction (SFT); chosen and rejected (preference); or chosen and rejected where a
# pair has them and its instruction elsewhere (scoring).
Answers = Literal["instruction", "preference", "either"]


@dataclass(frozen=True)
class SampleLengths:
    """Token counts of samples, 12 bytes each, so that steps are planned without reading records again.

    table  [N, 1 + answers] int32: what each sample takes of a packed sequence; then each answer (0: it has none), for
           which there are two columns unless the data has samples of more
    """

    table: np.ndarray

    @property
    def num_tokens(self) -> np.ndarray:
        """[N] int32"""
        return self.table[:, 0]

    @property
    def answers(self) -> np.ndarray:
        """[N, answers] int32"""
        return self.table[:, 1:]

    def num_answers(self, i: int) -> int:
        return int(np.count_nonzero(self.answers[i]))

    @classmethod
    def of(cls, samples: Sequence[EncodedSample]) -> "SampleLengths":
        table = np.zeros((len(samples), 3), np.int32)
        for row, sample in enumerate(samples):
            _count(sample, table[row])
        return cls(table)


class PairDataset:
    """Image pairs with their answers as token sequences: `sample(i)` reads one record and no picture."""

    most_answers = 2  # of any sample

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

    def with_prompt(self, prompt: Prompt) -> "PairDataset":
        """The same pairs under another prompt."""
        encoder = ChatEncoder(self.encoder.tokenizer, prompt)
        return PairDataset(self.shards, encoder, self.images, answers=self.answers, shared_prompt=self.shared_prompt)

    def of_shards(self, shards: ShardReader) -> "PairDataset":
        """Other pairs, seen by the same model."""
        return PairDataset(
            shards, self.encoder, self.images, answers=self.answers, shared_prompt=self.shared_prompt, notes=self.notes
        )

    def id(self, i: int) -> str:
        return self.shards.meta(i).id

    def place(self, i: int) -> SamplePlace:
        return SamplePlace(self.id(i), str(self.shards.path(self._position(i))))

    def _position(self, i: int) -> int:
        """Of sample i in the shards."""
        return i

    def patches(self, samples: Sequence[int]) -> np.ndarray:
        """Of each picture of these samples [n, pictures] int64, as the index says."""
        sizes = self.shards.columns.pixels[samples].reshape(-1, 2).tolist()
        patches = [math.prod(image_grid(width, height, self.images)) for width, height in sizes]
        return np.array(patches, np.int64).reshape(len(samples), -1)

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

    def measure(
        self, indices: Sequence[int], sequence_length: int, *, skip_bad: bool = False
    ) -> tuple[SampleLengths, list[str]]:
        """Read the records of these samples -> their lengths, and one sentence for each that cannot be trained on.
        skip_bad: one whose record cannot be read is none of these, and has no tokens."""
        table = np.zeros((len(indices), 1 + self.most_answers), np.int32)
        problems = []
        for row, i in enumerate(indices):
            try:
                sample = self.sample(i)
            except ValueError as error:
                if not (skip_bad and is_bad_data(error)):
                    problems.append(str(error))
                continue
            _count(sample, table[row])
            if problem := too_long(sample, sequence_length):
                problems.append(problem)
        return SampleLengths(table), problems

    def _encoded(self, i: int, answers: tuple[tuple[int, ...], ...]) -> EncodedSample:
        images = self._pictures(i)
        prompt = self.encoder.prompt_ids(*(grid_tokens(image.grid, self.images.merge_size) for image in images))
        return EncodedSample(self.id(i), tuple(prompt), answers, images, self.shared_prompt)

    def _pictures(self, i: int) -> tuple[ImageRef, ...]:
        return tuple(ImageRef.of(self.shards, i, side, self.images) for side in SIDES)


def _count(sample: EncodedSample, row: np.ndarray) -> None:
    """Fill a row of the table of `SampleLengths`, of zeros before."""
    counts = [sample.num_tokens, *map(len, sample.answers)]
    row[: len(counts)] = counts


def too_long(sample: EncodedSample, sequence_length: int) -> str:
    """The sentence for a sample that no packed sequence of this many tokens can hold; "" where one can."""
    if sample.num_tokens <= sequence_length:
        return ""
    twice = len(sample.prompts_with_answers) > 1
    return (
        f"sample {sample.id} takes {sample.num_tokens} tokens, more than "
        f"data.sequence_length={sequence_length}: raise it or lower data.max_pixels"
        + (" (or set data.shared_prompt=true: the prompt is in there twice)" if twice else "")
    )


def open_pairs(
    shards: list[str] | ShardReader,
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
    sequence unless `shared_prompt` is false. Raises ValueError for shards, folder or prompt that cannot be used."""
    encoder, images = read_folder(folder, min_pixels=min_pixels, max_pixels=max_pixels, prompt=prompt)
    notes = folder_notes(folder, encoder.tokenizer)
    reader = shards if isinstance(shards, ShardReader) else open_shards(shards)
    return PairDataset(reader, encoder, images, answers=answers, shared_prompt=shared_prompt, notes=notes)


def read_folder(
    folder: str | Path, *, min_pixels: int, max_pixels: int, prompt: str | Path = ""
) -> tuple[ChatEncoder, ImageSettings]:
    """What makes tokens and patches of pairs for the model of a folder. Raises ValueError for what cannot be used."""
    encoder = ChatEncoder(load_tokenizer(folder), Prompt.load(prompt))
    return encoder, ImageSettings.from_folder(folder, min_pixels=min_pixels, max_pixels=max_pixels)
