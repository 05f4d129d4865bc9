"""Pictures as a served model gets them: upright, opaque, within the pixel limits of models in process."""

from collections import OrderedDict
from dataclasses import replace

from editcaption_mega.data.images.sizes import limited_size

from .messages import Message, Picture

_REMEMBERED = 8  # pictures: judges ask about the same two several times in a row


class PictureLimits:
    """min_pixels, max_pixels: of a picture as it is sent, as in training (`data.images.sizes`)."""

    def __init__(self, min_pixels: int, max_pixels: int):
        self.min_pixels, self.max_pixels = min_pixels, max_pixels
        self._remembered: OrderedDict[str, Picture] = OrderedDict()  # by the digest of what was given

    def fit(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The messages with such pictures. Raises ValueError for bytes that are no sound picture, one in a form that
        servers do not take, or of a shape that no model in process takes."""
        pictures = [part for message in messages for part in message.parts if isinstance(part, Picture)]
        if all(picture.limited for picture in pictures):
            return messages
        return tuple(
            replace(message, parts=tuple(self._fitted(p) if isinstance(p, Picture) else p for p in message.parts))
            for message in messages
        )

    def stored(self, data: bytes, size: tuple[int, int]) -> Picture:
        """A picture of a shard, whose import has made it sound, upright and opaque, as it is sent: its own bytes where
        its size is within the limits, and only decoded where it is not. size: (width, height). For any thread.

        Raises ValueError as `fit`."""
        if limited_size(*size, min_pixels=self.min_pixels, max_pixels=self.max_pixels) == size:
            return Picture(data, limited=True)
        return Picture(self._fit(Picture(data)).data, limited=True)

    def _fitted(self, picture: Picture) -> Picture:
        if picture.limited:
            return picture
        if picture.sha256 not in self._remembered:
            self._remembered[picture.sha256] = self._fit(picture)
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        return self._remembered[picture.sha256]

    def _fit(self, picture: Picture) -> Picture:
        # Only who sends pictures waits for Pillow and PyTorch.
        from editcaption_mega.data.images.decode import LARGEST_MAX_PIXELS, encode_png, read_picture
        from editcaption_mega.data.images.patches import limit_picture

        given = read_picture(picture.data, max_pixels=LARGEST_MAX_PIXELS, where="a picture of the request")
        limited = limit_picture(given.rgb, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
        if limited.size == given.rgb.size and not given.notes and picture.mime:
            return picture
        return Picture(encode_png(limited))
