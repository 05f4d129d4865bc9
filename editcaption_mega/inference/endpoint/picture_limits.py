"""Pictures as a served model gets them: upright, opaque, within the pixel limits of models in process."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace

from .messages import Message, Picture

_REMEMBERED = 8  # pictures: judges ask about the same two several times in a row


class PictureLimits:
    """min_pixels, max_pixels: of a picture as it is sent, as in training (`data.vision.smart_resize`)."""

    def __init__(self, min_pixels: int, max_pixels: int):
        self.min_pixels, self.max_pixels = min_pixels, max_pixels
        self._made: OrderedDict[str, Picture] = OrderedDict()

    def fit(self, messages: Iterable[Message]) -> tuple[Message, ...]:
        """The messages with such pictures. Raises ValueError for bytes that are no sound picture, or one of a shape
        that no model in process takes."""
        return tuple(
            replace(message, parts=tuple(self._picture(p) if isinstance(p, Picture) else p for p in message.parts))
            for message in messages
        )

    def _picture(self, picture: Picture) -> Picture:
        if picture.sha256 not in self._made:
            self._made[picture.sha256] = self._made_of(picture)
            if len(self._made) > _REMEMBERED:
                self._made.popitem(last=False)
        return self._made[picture.sha256]

    def _made_of(self, picture: Picture) -> Picture:
        # Only who sends pictures waits for Pillow and PyTorch.
        from editcaption_mega.data.images.decode import LARGEST_MAX_PIXELS, encode_png, read_picture
        from editcaption_mega.data.images.patches import limit_picture

        found = read_picture(picture.data, max_pixels=LARGEST_MAX_PIXELS, where="a picture of the request")
        limited = limit_picture(found.rgb, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
        if limited.size == found.rgb.size and not found.notes:
            return picture
        return Picture(encode_png(limited))
