"""A model checks captions: it is shown both pictures and what was written of them, and asked to correct it."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from editcaption_mega.curation.columns import ColumnFile
from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.data.text.prompt import Prompt
from editcaption_mega.data.text.quoting import escaped, quoted
from editcaption_mega.settings import SettingsError

if TYPE_CHECKING:  # PyTorch is waited for where it is used
    from editcaption_mega.data.batching.dataset import PairDataset
    from editcaption_mega.data.batching.sample import EncodedSample

NO_DRAFT = "no draft to correct"
_PLACES = {"instruction", "quoted_instruction"}  # as in the templates of scorers


class DraftPrompt:
    """A prompt whose `request` holds `${instruction}` (the draft in one line) or `${quoted_instruction}` (JSON).

    Neither lets a draft write a control token, whatever it holds."""

    def __init__(self, prompt: Prompt, where: str):
        request = Template(prompt.request)
        used = set(request.get_identifiers()) if request.is_valid() else {""}
        if not used or not used <= _PLACES:
            raise ValueError(
                f"{where}: the request of a prompt that shows a draft must hold ${{instruction}} or "
                "${quoted_instruction}, and any other $ as $$"
            )
        self._prompt, self._request = prompt, request

    @classmethod
    def load(cls, path: str = "") -> "DraftPrompt":
        """A prompt file (docs/curation.md); "": the one of the package. Raises ValueError that names the problem."""
        shipped = resources.files(__package__).joinpath("check_prompt.yaml")
        with resources.as_file(shipped) as file:
            return cls(Prompt.load(path or file), f"prompt file {path}" if path else "the prompt")

    @property
    def fingerprint(self) -> str:
        return self._prompt.fingerprint

    def of(self, draft: str) -> Prompt:
        words = {"instruction": escaped(" ".join(draft.split())), "quoted_instruction": quoted(draft)}
        return replace(self._prompt, request=self._request.substitute(words))


class Drafts:
    """The captions of a file, to be checked. Raises ValueError for a file of other shards, and SettingsError for one of
    another number of samples."""

    def __init__(self, path: str, reader: ShardReader, samples: int):
        self._file = ColumnFile(path, reader)
        if self._file.samples != samples:
            raise SettingsError(f"drafts={path} has {self._file.samples} samples of each pair: set samples to that")

    def texts(self) -> Iterator[Sequence[str | None]]:
        """Of each pair the draft of each sample, None where there is none."""
        yield from ([line.get("instruction") for line in lines] for lines in self._file)

    def of(self, places: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int, str | None]]:
        """These places (in order) with their drafts."""
        texts = enumerate(self.texts())
        at, of_pair = next(texts)
        for place, sample in places:
            while at < place:
                at, of_pair = next(texts)
            yield place, sample, of_pair[sample]


def draft_identity(path: str, prompt: str) -> dict[str, str]:
    """What checked captions depend on beside what captions do."""
    with open(Path(path), "rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {"prompt": DraftPrompt.load(prompt).fingerprint, "drafts": digest}


class DraftedPairs:
    """Pairs as prompts that show their drafts, for generation in process (`inference.local.instructions.Prompts`).

    drafts: of each pair. A pair without one has no prompt, which `prompt` says by a ValueError."""

    def __init__(self, dataset: "PairDataset", prompt: DraftPrompt, drafts: Sequence[str | None]):
        self._dataset, self._prompt, self._drafts = dataset, prompt, drafts
        self.images = dataset.images

    def __len__(self) -> int:
        return len(self._dataset)

    def id(self, i: int) -> str:
        return self._dataset.id(i)

    def prompt(self, i: int) -> "EncodedSample":
        draft = self._drafts[i]
        if not draft:
            raise ValueError(NO_DRAFT)
        return self._dataset.with_prompt(self._prompt.of(draft)).prompt(i)
