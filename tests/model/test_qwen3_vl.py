"""What a rank keeps of a row under sequence parallelism."""

from editcaption_mega import platform
from editcaption_mega.conversion import load_weights
from editcaption_mega.model import Architecture, build_model, unwrap
from editcaption_mega.settings import ModelSettings, ParallelSettings
from tests.helpers import tiny
from tests.helpers.ranks import on_ranks
from tests.parity import worker


def kept(rank, folder):
    """Bytes of the embeddings and of the features that the decoder gets, and of the memory that they hold."""
    platform.initialize(platform.Layout(tensor=2), seed=1)
    parallel = ParallelSettings(tensor_model_parallel_size=2)
    assert parallel.use_sequence_parallel
    architecture = Architecture.from_folder(folder)
    (chunk,) = build_model(architecture, ModelSettings(folder=str(folder)), parallel, "fp32")
    load_weights([chunk], architecture, folder)
    (batch,) = worker.rows_of(tiny.samples(2), parallel)
    parts = unwrap(chunk)._merge(batch)
    return [(part.nbytes, part.untyped_storage().nbytes()) for part in parts]


def test_no_rank_holds_the_whole_row_for_its_part(tmp_path):
    """Until the backward pass, once for each micro-batch in flight."""
    tiny.hf_model(experts=False, layers=2).save_pretrained(tmp_path / "model")
    for sizes in on_ranks(kept, tmp_path, tmp_path / "model"):
        assert len(sizes) == 2 and all(own == held > 0 for own, held in sizes)
