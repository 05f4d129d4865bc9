"""Pictures of a sample before and when they are read."""

import pickle

import pytest
import torch

from editcaption_mega.data import SampleOrder
from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.data.batching.loader import SequenceReader, StepStream
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from tests.helpers.small_pairs import opened, packer_of


def test_a_picture_that_cannot_be_used_is_told_with_its_sample(model, tmp_path):
    """Before work where its size tells, and when it is decoded: damaged, or another than when it was indexed."""
    made = render_pair(WorldSettings(), 5, 0)
    sound, wide = encode_png(made.source), encode_png(made.source.resize((2010, 10)))
    with ShardWriter(tmp_path / "wide") as writer:
        for name, target in (("plain", sound), ("wide", wide)):
            writer.add(made.pair.model_copy(update={"id": name}), sound, "png", target, "png")
    dataset = opened(model, tmp_path / "wide")
    _, (problem,) = dataset.measure(range(2), 4096)
    assert problem == (
        "sample wide: its target picture cannot be used (a picture of 2010 x 10 pixels is more than 200 times longer "
        "than wide): crop it or remove the sample"
    )
    with pytest.raises(ValueError, match="sample wide: its target picture"):
        dataset.prompt(1)

    class Changed:
        """Shards whose bytes are not those that were indexed."""

        def __init__(self, shards, data):
            self.shards, self.data = shards, data

        def __getattr__(self, name):
            return getattr(self.shards, name)

        def picture(self, i, side):
            return self.data if side == "target" else self.shards.picture(i, side)

    for data, words in [
        (sound[:-40], "plain .target.* "),
        (b"no picture", "plain .target.* "),
        (wide, "sample plain: its target picture has 2010 x 10 pixels, index.json says .*make them again"),
    ]:
        changed = PairDataset(Changed(dataset.shards, data), dataset.encoder, dataset.images)
        with pytest.raises(ValueError, match=words) as error:
            changed.sample(0).images[1].load()
        assert "\n" not in str(error.value)
        plain, _ = changed.measure(range(1), 4096)
        reader = SequenceReader(changed, plain, packer_of(changed, 4096))
        with pytest.raises(ValueError, match=words):
            list(StepStream(reader, SampleOrder(1, 0), 1).steps(0, 1))


def test_a_picture_of_a_sample_prints_and_travels(model, folder):
    image = opened(model, folder).sample(2).images[1]
    assert "index=2, side='target'" in repr(image) and f"grid={image.grid}" in repr(image)
    assert torch.equal(pickle.loads(pickle.dumps(image)).load(), image.load())
