"""Pairs that a vision model finds alike, by FAISS and by numpy the same."""

import sys

import numpy as np
import pytest
import torch
from PIL import ImageEnhance

from editcaption_mega.curation.measures.embedded_duplicates import PictureEmbedder, nearest_vectors, with_embedded
from editcaption_mega.data.duplicates.duplicate_search import EMBEDDED, SearchedSet, find_duplicates
from editcaption_mega.data.duplicates.picture_marks import marks_of
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, render_pair


@pytest.fixture(scope="module", params=["clip", "dino"])
def model(request, tmp_path_factory):
    """A tiny random one. It knows light and dark, which is enough to follow a picture that is darkened a little."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    if request.param == "clip":
        vision = sizes | {"intermediate_size": 32}
        text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        CLIPModel(CLIPConfig(text_config=text | {"vocab_size": 64}, vision_config=vision)).save_pretrained(folder)
    else:
        Dinov2Model(Dinov2Config(**sizes, mlp_ratio=1)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def darker(image):
    return ImageEnhance.Brightness(image).enhance(0.9)


def test_a_darkened_copy_is_found_by_its_embedding_alone(model, tmp_path):
    with ShardWriter(tmp_path / "set") as writer:
        for index in range(12):
            rendered = render_pair(WorldSettings(), 9, index)
            writer.add(rendered.pair, encode_png(rendered.source), "png", encode_png(rendered.target), "png")
        rendered = render_pair(WorldSettings(), 9, 5)
        pair = rendered.pair.model_copy(update={"id": "darker"})
        writer.add(pair, encode_png(darker(rendered.source)), "png", encode_png(darker(rendered.target)), "png")
    sets = [SearchedSet("set", *marks_of(tmp_path / "set", workers=1))]
    plain = find_duplicates(sets)
    assert plain.pairs == []
    embedder = PictureEmbedder(model)
    vectors = embedder([rendered.source, darker(rendered.source)])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    least = float(vectors[0] @ vectors[1]) - 0.01
    found = with_embedded(plain, sets, model, least)
    assert any(d.place == 12 for d in found.pairs)
    assert {d.kind for d in found.pairs} == {EMBEDDED}
    (kept,) = (tmp_path / "set").glob("embeddings-*.safetensors")
    before = kept.stat().st_mtime_ns
    assert with_embedded(plain, sets, model, least) == found and kept.stat().st_mtime_ns == before


def test_faiss_and_numpy_find_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pytest.importorskip("faiss")
    with_faiss = nearest_vectors(vectors, vectors[:50], 5)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert (nearest_vectors(vectors, vectors[:50], 5) == with_faiss).all()
    assert (with_faiss[:, 0] == np.arange(50)).all()


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected the folder of a vision model"):
        PictureEmbedder(tmp_path)
