"""Pictures of shards are sent as `fit` would send them, and decoded only where that changes them."""

import pytest

from editcaption_mega.inference.endpoint.messages import Message, Picture
from editcaption_mega.inference.endpoint.picture_limits import PictureLimits
from tests.helpers.pool import png


@pytest.mark.parametrize(("side", "is_kept"), [(64, True), (96, True), (50, False), (320, False)])
def test_a_stored_picture_is_what_fit_makes_of_it(side, is_kept, monkeypatch):
    limits, data = PictureLimits(32 * 32, 128 * 128), png(7, side)
    (message,) = limits.fit((Message("user", (Picture(data),)),))
    if is_kept:
        monkeypatch.setattr(PictureLimits, "_fit", None)  # so it would be decoded
    stored = limits.stored(data, (side, side))
    assert stored.data == message.parts[0].data and (stored.data == data) == is_kept
    messages = (Message("user", (stored,)),)
    assert limits.fit(messages)[0].parts[0] is stored, "once is enough"


def test_a_shape_that_no_model_takes_is_refused_as_in_fit():
    with pytest.raises(ValueError, match="more than 200 times longer than wide"):
        PictureLimits(1024, 4096).stored(b"", (1000, 4))
