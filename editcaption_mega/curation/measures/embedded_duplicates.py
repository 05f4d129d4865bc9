"""Pairs that are alike for a vision model (CLIP, SigLIP, DINO), though thumbnails differ: filters, other crops.

Two pairs are compared by both pictures at once: the vector of a pair is its source's next to its target's, so one
search finds what is alike in order, and one with the halves exchanged what is swapped.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from editcaption_mega.data.array_file import is_made_from, map_arrays, write_arrays
from editcaption_mega.data.duplicates.differences import difference
from editcaption_mega.data.duplicates.duplicate_search import EMBEDDED, Duplicate, Duplicates, SearchedSet
from editcaption_mega.data.images.decode import decode_image
from editcaption_mega.data.shards.reader import SIDES, ShardReader
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import check_model_folder

if TYPE_CHECKING:
    from PIL.Image import Image

_NEIGHBORS = 16  # of each pair
_PAIRS_AT_ONCE = 8  # through the model
_MOST_COMPARED_WITH_ALL = 50_000  # pairs; more are looked for in the cells that are near
_CELLS_LOOKED_AT = 32
_ROWS = 1024  # compared at once without FAISS

Vectors = NDArray[np.float32]


class PictureEmbedder:
    """Embeddings of length 1, [n, width] fp32, of pictures, by any vision model of a Hugging Face folder. Raises
    ValueError for a folder without one."""

    def __init__(self, folder: Path):
        from transformers import AutoImageProcessor, AutoModel

        check_model_folder(folder, "vision model (CLIP, SigLIP, DINO)")
        self.model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        self.processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)

    def __call__(self, pictures: "Sequence[Image]") -> Vectors:
        import torch

        inputs = self.processor(images=list(pictures), return_tensors="pt")
        with torch.inference_mode():
            if hasattr(self.model, "get_image_features"):
                out: Any = self.model.get_image_features(**inputs)
            else:
                out = self.model(**inputs)
        features = getattr(out, "pooler_output", None)
        if features is None:
            features = out if isinstance(out, torch.Tensor) else out.last_hidden_state[:, 0]
        vectors: Vectors = torch.nn.functional.normalize(features.float().flatten(1), dim=-1).numpy()
        return vectors


def with_embedded(
    duplicates: Duplicates, sets: Sequence[SearchedSet], folder: Path, least: float, progress: Progress = no_progress
) -> Duplicates:
    """What was found, and pairs that are nothing else to one another there but whose pictures both have a cosine of
    `least` or more. Embeddings are kept beside the shards, where those can be written. Raises ValueError as
    `PictureEmbedder`, ImageError."""
    embedder = PictureEmbedder(folder)
    key = {"format": 1, "model": _digest(folder)}
    vectors = np.concatenate([_embedded(s.shards, embedder, key, progress) for s in sets])
    known = {(d.set, d.place, d.other_set) for d in duplicates.pairs}
    more = [d for d in _alike(sets, vectors, least) if (d.set, d.place, d.other_set) not in known]
    return replace(duplicates, pairs=[*duplicates.pairs, *more])


def nearest_vectors(vectors: Vectors, queries: Vectors, count: int) -> NDArray[np.int64]:
    """[Q, count]: for each query the places of the vectors of greatest inner product; -1 where there are fewer. With
    FAISS where it is installed, and of many vectors then only those of near cells."""
    count = min(count, len(vectors))
    try:
        import faiss
    except ImportError:
        blocks = [queries[start : start + _ROWS] @ vectors.T for start in range(0, len(queries), _ROWS)]
        return np.concatenate([np.argsort(-block, axis=1, kind="stable")[:, :count] for block in blocks])
    width = vectors.shape[1]
    index = faiss.IndexFlatIP(width)
    if len(vectors) > _MOST_COMPARED_WITH_ALL:
        cells = int(4 * len(vectors) ** 0.5)
        index = faiss.IndexIVFFlat(index, width, cells, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.nprobe = _CELLS_LOOKED_AT
    index.add(vectors)
    places: NDArray[np.int64] = index.search(queries, count)[1]
    return places


def _alike(sets: Sequence[SearchedSet], vectors: NDArray[np.float32], least: float) -> Iterator[Duplicate]:
    """vectors [N, 2, width]: of all sets, one after another. For each pair and other set the pair most like it."""
    ends = np.cumsum([len(s.marks) for s in sets])
    flat = np.ascontiguousarray(vectors.reshape(len(vectors), -1))
    best: dict[tuple[int, int], tuple[float, int, bool]] = {}
    for swapped in (False, True):
        queries = np.ascontiguousarray(vectors[:, ::-1].reshape(len(vectors), -1)) if swapped else flat
        places = nearest_vectors(flat, queries, _NEIGHBORS)
        for column in places.T:
            a, b = np.arange(len(vectors)), column
            valid = (b >= 0) & (a != b)
            a, b = a[valid], b[valid]
            other = vectors[b][:, ::-1] if swapped else vectors[b]
            cosines = (vectors[a] * other).sum(2)
            alike = cosines.min(1) >= least
            for x, y, mean in zip(a[alike].tolist(), b[alike].tolist(), cosines[alike].mean(1).tolist(), strict=True):
                mine, theirs = _said_of(x, y, sets, ends)
                where = (mine, int(np.searchsorted(ends, theirs, "right")))
                if where not in best or mean > best[where][0]:
                    best[where] = (mean, theirs, swapped)
    for (mine, k), (_, theirs, swapped) in sorted(best.items()):
        own = int(np.searchsorted(ends, mine, "right"))
        place, other_place = (int(at - ends[of] + len(sets[of].marks)) for at, of in ((mine, own), (theirs, k)))
        light = _difference(sets[own], place, sets[k], other_place, swapped)
        yield Duplicate(EMBEDDED, own, place, k, other_place, swapped, light)


def _said_of(x: int, y: int, sets: Sequence[SearchedSet], ends: NDArray[np.int64]) -> tuple[int, int]:
    """Of two pairs first the one that it is said of: an evaluation set's, else the later."""
    last = [sets[int(np.searchsorted(ends, at, "right"))].is_evaluation for at in (x, y)]
    return (x, y) if (last[0], x) > (last[1], y) else (y, x)


def _difference(mine: SearchedSet, place: int, other: SearchedSet, other_place: int, swapped: bool) -> float:
    a, b = mine.marks.thumbnails[place], other.marks.thumbnails[other_place]
    return float(difference(a, b[::-1] if swapped else b).light.max())


def _embedded(shards: ShardReader, embedder: PictureEmbedder, key: dict[str, Any], progress: Progress) -> Vectors:
    """[N, 2, width] of the pairs of a folder."""
    path = shards.directories[0] / f"embeddings-{key['model'][:12]}.safetensors"
    key = key | {"fingerprint": shards.fingerprint}
    if is_made_from(path, key):
        return map_arrays(path, key)["vectors"]
    parts = []
    tasks = list(batched(range(len(shards)), _PAIRS_AT_ONCE))
    for places in progress(tasks, len(tasks), f"embeddings of {_PAIRS_AT_ONCE} pairs each"):
        pictures = [
            decode_image(shards.picture(at, side), where=f"{side} of {shards.ids[at]}")
            for at in places
            for side in SIDES
        ]
        parts.append(embedder(pictures).reshape(len(places), 2, -1))
    vectors = np.concatenate(parts)
    with suppress(OSError):  # of a folder that cannot be written: they are made again next time
        write_arrays(path, key, {"vectors": vectors})
    return vectors


def _digest(folder: Path) -> str:
    """Of the files that an embedding depends on."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors") and path.is_file():
            with open(path, "rb") as file:
                digest.update(f"{path.name}:".encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
