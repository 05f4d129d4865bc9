"""An import of small pairs by one process and by several: pairs a second, and processor and memory of the process that
reads and writes, with all pairs and with a quarter of them. The shards must be the same. `tools/bench.py import`."""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from editcaption_mega.data import open_shards

from .measuring import machine_facts

ROOT = Path(__file__).resolve().parents[2]
_AT_ONCE = 1000


def measure(pairs: int, side: int, workers: list[int], repeats: int, say: Callable[[str], None]) -> list[dict]:
    """A record for each number of workers (its best turn; turns alternate), relative to the first."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say(f"{pairs:,} pairs of {side} px are written")
        _write(folder / "small.parquet", pairs // 4, side)
        _write(folder / "large.parquet", pairs, side)
        best: dict[int, dict] = {}
        for turn in range(repeats):
            for count in workers:
                record = _timed(folder / "large.parquet", folder / f"{turn}-{count}", count)
                say(f"{count} worker(s): {pairs / record['seconds']:.0f} pairs a second")
                if count not in best or record["seconds"] < best[count]["seconds"]:
                    best[count] = record
        if len({record["fingerprint"] for record in best.values()}) != 1:
            raise ValueError("the shards depend on the number of workers")
        for count in workers:
            best[count]["quarter_bytes"] = _timed(folder / "small.parquet", folder / f"small-{count}", count)["bytes"]
            best[count]["ratio"] = best[workers[0]]["seconds"] / best[count]["seconds"]
    return [best[count] | {"name": f"{count} worker(s)", "pairs": pairs, "side": side} for count in workers]


def measured(arguments: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[dict], str, dict]:
    """(records, table, machine) of `tools/bench.py import`."""
    records = measure(arguments.pairs, arguments.side, arguments.workers, arguments.repeats, say)
    machine = machine_facts(arguments.repeats, f"an import of {arguments.pairs:,} pairs of {arguments.side} px")
    return records, markdown(records, machine), machine


def markdown(records: list[dict], machine: dict) -> str:
    lines = [
        f"{machine['case']}; {os.cpu_count()} cores, the best of {machine['repeats']} turns.", "",
        "| workers | pairs/s | to the first | its processor s | its memory with a quarter of the pairs | with all |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in records:
        memory = f"{row['quarter_bytes'] / 2**20:.0f} MiB | {row['bytes'] / 2**20:.0f} MiB"
        rate, ratio = row["pairs"] / row["seconds"], row["ratio"]
        lines.append(f"| {row['name']} | {rate:.0f} | {ratio:.2f} | {row['processor']:.1f} | {memory} |")
    return "\n".join(lines) + "\n"


def _write(path: Path, pairs: int, side: int) -> None:
    schema = pyarrow.schema(
        [("source_image", pyarrow.binary()), ("edited_image", pyarrow.binary()), ("edit_prompt", pyarrow.string())]
    )
    random = np.random.default_rng(1)
    with pyarrow.parquet.ParquetWriter(path, schema, compression="none") as writer:
        for first in range(0, pairs, _AT_ONCE):
            count = min(_AT_ONCE, pairs - first)
            columns = [[_picture(random, side) for _ in range(count)] for _ in range(2)]
            texts = [f"Add hat {first + i} to the dog on the left." for i in range(count)]
            writer.write_table(pyarrow.table([*columns, texts], schema=schema), row_group_size=100)


def _picture(random: np.random.Generator, side: int) -> bytes:
    """Smooth colors with some grain: a JPEG that decodes like a photograph, and looks like no other."""
    colors = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    out = io.BytesIO()
    Image.blend(colors, Image.effect_noise((side, side), 40).convert("RGB"), 0.2).save(out, "JPEG", quality=90)
    return out.getvalue()


def _timed(path: Path, output: Path, workers: int) -> dict:
    script = (
        "import json, sys, time\n"
        "from editcaption_mega.commands.make_shards import main\n"
        "from benches.processes import status_bytes\n"
        "if __name__ == '__main__':\n"
        "    main(sys.argv[1:])\n"
        "    print(json.dumps({'bytes': status_bytes('VmHWM'), 'processor': time.process_time()}))\n"
    )
    run = output.with_suffix(".py")
    run.write_text(script)
    command = [sys.executable, str(run), "--format", "ultraedit", "--category", "semantic", "--input", str(path)]
    command += ["--output", str(output), "--workers", str(workers)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")])
    start = time.perf_counter()
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise ValueError(f"the import failed: {done.stderr[-500:]}")
    with open_shards(output) as shards:
        fingerprint = shards.fingerprint
    return json.loads(done.stdout.splitlines()[-1]) | {
        "workers": workers, "fingerprint": fingerprint, "seconds": seconds,
    }  # fmt: skip
