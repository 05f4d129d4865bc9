"""A folder of shards, read in two ways.

    python tools/make_shards.py --format synthetic --input default --count 8 --output data/example
    python examples/read_shards.py data/example

Through this package a set is indexable and knows its fingerprint, and an order of samples is a function of seed and
position. Any reader of WebDataset tars reads the same files."""

import io
import json
import sys
from pathlib import Path

import webdataset
from PIL import Image

from editcaption_mega.data import SampleOrder, open_shards


def main(folder: str) -> None:
    shards = open_shards(folder)
    print(f"{len(shards)} pairs, fingerprint {shards.fingerprint[:12]}")
    order = SampleOrder(len(shards), seed=1)
    for position in range(2):
        sample = shards[order.at(position)]
        print(f"{sample.pair.id}: {sample.source_size} -> {sample.target_size}, {sample.pair.instruction}")

    print("the same by webdataset:")
    tars = sorted(str(path) for path in Path(folder).glob("*.tar"))
    for number, row in enumerate(webdataset.WebDataset(tars, shardshuffle=False)):
        record = json.loads(row["json"])
        (source,) = (data for name, data in row.items() if name.startswith("src."))
        print(f"{record['id']}: {Image.open(io.BytesIO(source)).size}, {record['instruction']}")
        if number == 1:
            break


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python examples/read_shards.py FOLDER   (one that tools/make_shards.py wrote)", file=sys.stderr)
        sys.exit(2)
    try:
        main(sys.argv[1])
    except ValueError as error:  # a folder that is none, or that holds no shards
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
