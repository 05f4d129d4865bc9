"""An instruction for two pictures that are in no shards: from a model in process, or at an address."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from editcaption_mega.data.images.decode import ImageError, decode_image
from editcaption_mega.data.text.side_files import is_peft_folder
from editcaption_mega.files import plain_file
from editcaption_mega.settings import PixelLimits, hub_hint

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from editcaption_mega.data.batching.sample import EncodedSample
    from editcaption_mega.data.images.patches import Grid, ImageSettings
    from editcaption_mega.data.text.prompt import ChatEncoder

    from .endpoint.address import Endpoint
    from .endpoint.answer import Answer

_RUN_FILES = ("tensors.json", "checkpoints")  # of a checkpoint, of a run folder


@dataclass(frozen=True)
class PictureFile:
    """A picture as its file has it, and decoded: upright RGB."""

    data: bytes
    image: "Image"

    @classmethod
    def read(cls, path: str | Path) -> "PictureFile":
        """Raises ValueError for a file that is not there, is no picture, or is a damaged one."""
        try:
            data = plain_file(path).read_bytes()
        except FileNotFoundError:
            raise ImageError(f"{path}: no such file; expected a picture (JPEG, PNG, WebP, GIF, BMP, TIFF)") from None
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}; name a picture") from None
        return cls(data, decode_image(data, where=str(path)))


@dataclass(frozen=True)
class CaptionOptions:
    """How texts are written. pictures: as in training; prompt: a file, "" the built-in one; temperature 0: the
    likeliest tokens, else drawn with `seed`."""

    pictures: PixelLimits = field(default_factory=PixelLimits)
    prompt: str | Path = ""
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0


class Captioner:
    """A Qwen3-VL in this process, loaded once, that writes the instruction from one picture to another.

    folder: a Hugging Face folder, or a PEFT folder of adapters on one. Raises ValueError in one sentence for what is
    none."""

    def __init__(self, folder: str | Path, options: CaptionOptions = CaptionOptions()) -> None:  # noqa: B008 (frozen)
        check_model_name(folder)
        from editcaption_mega.data.batching.dataset import read_folder

        from .local.generator import Generator

        limits = options.pictures
        self.options = options
        self._encoder, self._images = read_folder(
            folder, min_pixels=limits.min_pixels, max_pixels=limits.max_pixels, prompt=options.prompt
        )
        self._generator = Generator(folder)

    def answer(self, source: PictureFile, target: PictureFile) -> "Answer":
        """What the model writes, or why that is no instruction. Raises ValueError for pictures of impossible shapes."""
        from .local.instructions import record_answer, write_instructions

        prompts = _Pair((source.image, target.image), self._encoder, self._images)
        options = self.options
        (record,) = write_instructions(
            self._generator, prompts, max_new_tokens=options.max_tokens, temperature=options.temperature,
            seed=options.seed,
        )  # fmt: skip
        return record_answer(record)


def check_model_name(name: str | Path) -> None:
    """Raises ValueError for what cannot be a folder of a model, with the way to get one. Needs no PyTorch."""
    folder = Path(name)
    if folder.is_dir():
        if (folder / "config.json").is_file() or is_peft_folder(folder):
            return
        if any((folder / part).exists() for part in _RUN_FILES):
            raise ValueError(
                f"{name} holds Megatron checkpoints, and texts are written from Hugging Face folders: run editcaption "
                f"convert megatron-to-hf --checkpoint {name} --output DIR, and give that folder"
            )
        raise ValueError(f"{name} holds no config.json: expected a Hugging Face or PEFT folder of a Qwen3-VL")
    if folder.exists():
        raise ValueError(f"{name} is a file: expected a Hugging Face folder of a Qwen3-VL model")
    raise ValueError(f"{name}: no such folder; expected a Hugging Face folder of a Qwen3-VL model{hub_hint(name)}")


def ask_for_caption(
    endpoint: "Endpoint", source: PictureFile, target: PictureFile, options: CaptionOptions
) -> "Answer":
    """What the model at an address writes, with the same prompt. Nothing is kept. Raises EndpointError where nobody
    answers there."""
    from editcaption_mega.data.text.prompt import Prompt

    from .endpoint.client import Picture, Request, complete
    from .endpoint.pair_messages import chat_messages, reply_answer

    messages = chat_messages(Prompt.load(options.prompt), Picture(source.data), Picture(target.data))
    request: Request[str] = Request(
        "pictures", messages, max_tokens=options.max_tokens, temperature=options.temperature, seed=options.seed
    )
    (reply,) = complete(endpoint, [request], None)
    return reply_answer(reply)


class _Pair:
    """The one prompt of `write_instructions`."""

    def __init__(self, pictures: "tuple[Image, Image]", encoder: "ChatEncoder", images: "ImageSettings") -> None:
        self.images = images
        self._pictures, self._encoder = pictures, encoder

    def __len__(self) -> int:
        return 1

    def id(self, i: int) -> str:
        return "pictures"

    def prompt(self, i: int) -> "EncodedSample":
        from editcaption_mega.data.batching.sample import EncodedSample
        from editcaption_mega.data.images.patches import grid_tokens

        images = tuple(_Unread(image, self.images) for image in self._pictures)
        tokens = self._encoder.prompt_ids(*(grid_tokens(image.grid, self.images.merge_size) for image in images))
        return EncodedSample(self.id(i), tuple(tokens), (), images)


@dataclass(frozen=True)
class _Unread:
    """A decoded picture in the form of `UnreadImage`."""

    image: "Image"
    settings: "ImageSettings"

    @property
    def grid(self) -> "Grid":
        from editcaption_mega.data.images.patches import image_grid

        return image_grid(self.image.width, self.image.height, self.settings)

    def load(self) -> "Tensor":
        from editcaption_mega.data.images.patches import image_patches

        return image_patches(self.image, self.settings)
