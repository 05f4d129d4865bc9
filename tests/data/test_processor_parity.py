"""Two photographs of the repository, from files to tokens and patches, as transformers' own processor has it."""

from itertools import chain

import pytest
import torch

from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.data.images.decode import decode_image
from editcaption_mega.data.images.patches import ImageSettings, image_patches, processor_patches
from editcaption_mega.data.importers import FORMATS, ImportOptions
from editcaption_mega.data.importers.ingest import ingest
from editcaption_mega.data.shards.reader import open_shards
from editcaption_mega.data.text.prompt import ChatEncoder, Prompt, load_tokenizer
from tests.helpers.shared_data import DATA_FILES

PIXELS = ImageSettings(patch_size=16, merge_size=2, temporal_patch_size=2, min_pixels=4096, max_pixels=256 * 256)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs") / "shards"
    rows = FORMATS["jsonl"].read(str(DATA_FILES / "pairs" / "pairs.jsonl"), ImportOptions())
    report = ingest(rows, folder)
    assert (report.accepted, report.rejected, report.warned) == (2, 0, 0)
    return folder


def processor(tokenizer):
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    images = Qwen2VLImageProcessor(
        patch_size=PIXELS.patch_size,
        merge_size=PIXELS.merge_size,
        temporal_patch_size=PIXELS.temporal_patch_size,
        image_mean=list(PIXELS.mean),
        image_std=list(PIXELS.std),
        size={"shortest_edge": PIXELS.min_pixels, "longest_edge": PIXELS.max_pixels},
    )
    # The video half is not used; it only has to be there.
    return Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(), chat_template=tokenizer.chat_template)


def test_photographs_become_what_the_transformers_processor_makes_of_them(shards, any_qwen_tokenizer_dir):
    tokenizer = load_tokenizer(any_qwen_tokenizer_dir)
    dataset = PairDataset(open_shards(shards), ChatEncoder(tokenizer, Prompt.load()), PIXELS)
    theirs = processor(tokenizer)
    sizes = set()
    for i, stored in enumerate(dataset.shards):
        pictures = [decode_image(data) for data in (stored.source_bytes, stored.target_bytes)]
        conversation = [
            *Prompt.load().messages(*pictures),
            {"role": "assistant", "content": [{"type": "text", "text": stored.pair.instruction}]},
        ]
        asked = theirs.apply_chat_template(
            conversation[:-1], tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        answered = theirs.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt")
        sample = dataset.sample(i)
        assert list(sample.prompt_ids) == asked["input_ids"][0].tolist()
        whole = answered["input_ids"][0].tolist()
        assert [*sample.prompt_ids, *chain(*sample.answers)] == whole[:-1], "the template's last token is a newline"
        assert [list(grid) for grid in sample.grids] == asked["image_grid_thw"].tolist()
        patches = torch.cat([processor_patches(image_patches(picture, PIXELS), PIXELS) for picture in pictures])
        assert torch.equal(patches, asked["pixel_values"])
        assert patches.std() > 0.2, "photographs, not plain surfaces"
        sizes.add(tuple(picture.size for picture in pictures))
    assert len(sizes) == 2
