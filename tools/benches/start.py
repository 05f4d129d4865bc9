"""What the start of a preference job costs a rank before its model is built: seconds, bytes and what is read.

The data are real shards of a few pairs whose index lists them again and again under other names, so that records are
read and tokenized as in a job, and a million pairs need no terabyte. Each start is a process of its own.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from editcaption_mega.data.batching.dataset import PairDataset, open_pairs
from editcaption_mega.data.batching.job_samples import JobSamples
from editcaption_mega.data.batching.loader import SequenceReader, StepStream
from editcaption_mega.data.batching.order import SampleOrder
from editcaption_mega.data.batching.packing import Packer, RankShare
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.index import load_index, write_index
from editcaption_mega.data.shards.index_columns import IndexColumns
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.shards.text_arrays import Texts
from editcaption_mega.data.start_tables import JobShards
from editcaption_mega.data.synthetic import WorldSettings, corpus_texts, render_pair
from editcaption_mega.model.random_folder import SmallModel, train_tokenizer, write_random_folder
from editcaption_mega.settings import PreferenceSettings
from editcaption_mega.training.pair_facts import pair_facts
from editcaption_mega.training.reference_table import read_reference
from editcaption_mega.training.setup import measure_samples

from .processes import status_bytes

REAL = 200  # pairs that are there
_IN_A_FOLDER = 250_000
_LONGEST = 2048
_MODES = (["orientation"], ["viewpoint", "detail"], ["detail"])


def measure(pairs: int, say: Callable[[str], None]) -> list[dict]:
    """One record for each phase of a first start and of one that goes on, with what a process holds in the end."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        size = SmallModel(hidden_size=16, num_layers=1, intermediate_size=16, vision_depth=1)
        write_random_folder(root / "model", train_tokenizer(corpus_texts(WorldSettings(), 1, 300), 500), size)
        say(f"{pairs:,} pairs are listed")
        _write_pairs(root / "real")
        folders = [str(path) for path in _write_indices(root, pairs)]
        _write_reference(root, pairs, folders[0])
        records = []
        for which in ("first", "next"):
            say(f"the {which} start")
            child = [sys.executable, "-c", f"from benches.start import start; start({str(root)!r}, {folders!r})"]
            done = subprocess.run(child, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True, check=True)
            records += [{"start": which, "pairs": pairs} | phase for phase in json.loads(done.stdout.splitlines()[-1])]
        return records


def start(root: str, folders: list[str]) -> None:
    """In a process of its own: what `prepare` and the reference do of the data, and a step's worth of reading."""
    base, phases = Path(root), []
    tables = base / "run/tables"
    before = status_bytes("RssAnon")

    @contextmanager
    def phase(what: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        seconds = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - cpu}
        phases.append({"phase": what, **seconds, "bytes": status_bytes("RssAnon") - before})

    with phase("index"):
        shards = JobShards(JobSamples(folders), tables)
    with phase("index, kept"):
        shards.keep()
    with phase("tokenizer and prompt"):
        dataset = open_pairs(shards.reader, base / "model", min_pixels=1024, max_pixels=1 << 20, answers="preference")
        dataset.fingerprint  # noqa: B018 (it is made here)
    with phase("lengths"):
        lengths = measure_samples(dataset, _LONGEST, tables)
    with phase("tags"):
        facts = pair_facts(dataset, PreferenceSettings(), tables)
    with phase("reference"):
        reader = SequenceReader(dataset, lengths, Packer(dataset.images, 1, 2, 48, _LONGEST))
        log_probs = read_reference(base / "reference.jsonl", reader, {}, tables)
    with phase("an epoch planned, steps of 256 pairs on 64 ranks"):
        tokens = dataset.encoder.image_token_id, dataset.encoder.pad_token_id
        packer = Packer(dataset.images, *tokens, 48, _LONGEST, share=RankShare(data_parallel_size=64))
        stream = StepStream(SequenceReader(dataset, lengths, packer), SampleOrder(len(dataset)), 256)
        for number in range(len(dataset) // 256):
            stream.reader.plan(stream.samples(number))
    with phase("the first batch of a rank"):
        next(iter(stream.steps(0, 1)))
    with phase("what a step of 256 pairs needs"):
        for sample in range(0, len(dataset), max(1, len(dataset) // 256)):
            assert len(log_probs[sample]) == lengths.answers[sample].sum() and facts[sample].margin == 0
    print(json.dumps(phases))


def _write_pairs(folder: Path) -> None:
    with ShardWriter(folder) as writer:
        for i in range(REAL):
            made, other = (render_pair(WorldSettings(canvas_size=96), seed, i) for seed in (5, 6))
            fields = {"chosen": made.pair.instruction, "rejected": other.pair.instruction, "instruction": None}
            pair = made.pair.model_copy(update=fields | {"failure_modes": _MODES[i % 3], "severity": 0.5})
            writer.add(pair, encode_png(made.source), "png", encode_png(made.target), "png")


def _write_indices(root: Path, pairs: int) -> list[Path]:
    """Folders with the tars of the real pairs, whose samples are listed under other ids."""
    real = load_index(root / "real")
    folders = []
    for number, first in enumerate(range(0, pairs, _IN_A_FOLDER)):
        folder = root / f"pairs-{number}"
        folder.mkdir()
        for tar in (root / "real").glob("*.tar"):
            (folder / tar.name).symlink_to(tar)
        of_folder = np.arange(first, min(first + _IN_A_FOLDER, pairs))
        ids = Texts.of(_id(i) for i in of_folder)
        arrays = {name: values[of_folder % REAL] for name, values in real.samples.arrays.items() if name != "ids"}
        arrays |= {"ids": ids.content, "id_ends": ids.ends}
        write_index(folder, real.shards, IndexColumns(arrays))
        folders.append(folder)
    return folders


def _write_reference(root: Path, pairs: int, folder: str) -> None:
    """Log-probs of all pairs, as a reference pass writes them."""
    dataset: PairDataset = open_pairs(
        [str(root / "real")], root / "model", min_pixels=1024, max_pixels=1 << 20, answers="preference"
    )
    texts = []
    for i in range(REAL):
        values = [[-((k + 1) / 7) for k in range(len(answer))] for answer in dataset.sample(i).answers]
        chosen, rejected = ({"log_prob": sum(part), "token_log_probs": part} for part in values)
        texts.append(json.dumps({"id": "", "chosen": chosen, "rejected": rejected}).removeprefix('{"id": ""'))
    with open(root / "reference.jsonl", "w") as file:
        file.write('{"fingerprint": {}}\n')
        file.writelines(f'{{"id": "{_id(i)}"{texts[i % REAL]}\n' for i in range(pairs))


def _id(i: int) -> str:
    return f"pair-{i:09d}"


def markdown(records: list[dict], machine: dict) -> str:
    form = "| {start} | {phase} | {processor_seconds:.2f} | {seconds:.2f} | {megabytes:.0f} |\n"
    rows = "".join(form.format(**record, megabytes=record["bytes"] / 1e6) for record in records)
    for which in ("first", "next"):
        own = [r for r in records if r["start"] == which]
        seconds = (sum(r[name] for r in own) for name in ("processor_seconds", "seconds"))
        rows += "| {} | **all** | **{:.2f}** | **{:.2f}** | {:.0f} |\n".format(which, *seconds, own[-1]["bytes"] / 1e6)
    return (
        f"{machine['case']}; {machine['device']}. One rank: at a first start n ranks share the lengths, the tags and "
        "the reference, and one of them reads the index.\n\n"
        "| start | phase | processor seconds | seconds | MB of its own |\n|---|---|---:|---:|---:|\n" + rows
    )
