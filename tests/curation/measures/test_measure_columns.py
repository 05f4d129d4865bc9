import json

import numpy as np
import pytest
from PIL import Image

from editcaption_mega.curation.columns import ColumnFile, ColumnWork, made_folder
from editcaption_mega.curation.measures.measure_columns import embed_pairs
from editcaption_mega.curation.measures.picture_changes import measure_pictures
from editcaption_mega.data.shards.reader import ShardWriter, open_shards
from editcaption_mega.records import EditPair
from tests.helpers import ROOT
from tests.helpers.curate import curate
from tests.helpers.small_pairs import write_pairs


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("measure") / "shards", [None] * 11)


def test_processes_measure_what_this_process_measures_and_a_killed_run_goes_on(shards, tmp_path, capsys):
    output = tmp_path / "measure.jsonl"
    assert curate("measure", "--shards", shards, "--output", output, "--workers", 2) == 0
    assert "columns of 11 pairs" in capsys.readouterr().out
    reader = open_shards(shards)
    rows = [row for (row,) in ColumnFile(output, reader)]
    for i in (0, 10):
        measured = measure_pictures(reader.picture(i, "source"), reader.picture(i, "target"))
        assert rows[i] == {"id": reader.ids[i]} | measured
    whole, made = output.read_bytes(), made_folder(output) / "all/lines.jsonl"
    made.write_bytes(b"".join(made.read_bytes().splitlines(keepends=True)[:4]) + b'{"at": 4')
    output.unlink()
    assert curate("measure", "--shards", shards, "--output", output, "--workers", 1, "--part", "1/2") == 0
    assert "part 1/2 is made" in capsys.readouterr().out and not output.exists()
    assert curate("measure", "--shards", shards, "--output", output, "--workers", 1, "--part", "0/2") == 0
    assert output.read_bytes() == whole


def test_a_picture_that_cannot_be_read_is_a_reason(tmp_path):
    good = (ROOT / "tests/data_files/pairs/cat.src.jpg").read_bytes()
    with ShardWriter(tmp_path / "shards") as writer:
        for name, target in (("good", good), ("bad", good[: len(good) // 3])):
            writer.add(EditPair(id=name, category="semantic", edit_type="add"), good, "jpg", target, "jpg")
    assert curate("measure", "--shards", tmp_path / "shards", "--output", tmp_path / "m.jsonl", "--workers", 1) == 0
    rows = [row for (row,) in ColumnFile(tmp_path / "m.jsonl")]
    assert rows[0]["identical"] is True and "the target: truncated or damaged" in rows[1]["reason"]
    assert set(rows[1]) == {"id", "reason"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=small | {"vocab_size": len(words), "max_position_embeddings": 12, "eos_token_id": len(words) - 1},
        vision_config=small | {"image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


def test_embeddings_of_pictures_and_texts(shards, clip, tmp_path):
    import torch
    from transformers import CLIPModel, CLIPProcessor

    reader = open_shards(shards)
    with ColumnWork(tmp_path / "captions.jsonl", reader, "caption", {}) as work:
        for at in range(11):
            given = {"source_caption": "a red cup", "target_caption": "a blue cup on the table and more than fits"}
            work.keep(at, {"reason": "refused"} if at == 3 else given)
        work.merge()
    output = tmp_path / "embed.jsonl"
    options = ["--clip", clip, "--captions", tmp_path / "captions.jsonl", "--batch-size", 4]
    assert curate("measure", "--shards", shards, "--output", output, *options) == 0
    rows = [row for (row,) in ColumnFile(output, reader)]
    assert [set(row) for row in rows][2:4] == [
        {"id", "image_similarity", "text_gain", "directional"}, {"id", "image_similarity", "text_gain"},
    ]  # fmt: skip
    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    pictures = [Image.open(__import__("io").BytesIO(reader.picture(7, side))) for side in ("source", "target")]
    text = processor.tokenizer([reader.pair(7).instruction], truncation=True, max_length=12, return_tensors="pt")
    with torch.no_grad():
        seen = model(**processor.image_processor(pictures, return_tensors="pt"), **text)
    a, b = (embedding / embedding.norm() for embedding in seen.image_embeds)
    assert rows[7]["image_similarity"] == pytest.approx(float(a @ b), abs=2e-5)
    assert rows[7]["text_gain"] == pytest.approx(float(seen.text_embeds[0] @ (b - a)), abs=2e-5)
    assert np.isfinite([row["directional"] for row in rows if "directional" in row]).all()


def test_what_is_no_such_model_is_refused(shards, tmp_path, clip, capsys):
    (tmp_path / "empty").mkdir()
    assert curate("measure", "--shards", shards, "--output", tmp_path / "e.jsonl", "--clip", tmp_path / "empty") == 2
    assert "expected the folder of a CLIP or SigLIP model, found no config.json" in capsys.readouterr().err
    assert curate("measure", "--shards", shards, "--output", tmp_path / "e.jsonl", "--captions", clip) == 2
    reader = open_shards(shards)
    with ColumnWork(tmp_path / "two.jsonl", reader, "caption", {}, samples=2) as work:
        for at, sample in work.missing():
            work.keep(at, {"instruction": "a"}, sample=sample)
        work.merge()
    with pytest.raises(ValueError, match="has 2 samples of each pair"):
        embed_pairs(reader, tmp_path / "e.jsonl", clip, instructions=tmp_path / "two.jsonl")
