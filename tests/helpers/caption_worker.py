"""A process that captions a pool at an endpoint, and says each pair that it has kept.

usage: python -m tests.helpers.caption_worker SHARDS URL OUTPUT SAMPLES CONCURRENCY [WORKERS]"""

import sys
from dataclasses import replace

from editcaption_mega.curation.captions.caption import caption
from editcaption_mega.data import open_shards
from editcaption_mega.settings import CaptionSettings, EndpointSettings, GenerationSettings


def settings_of(shards: str, url: str, output: str, samples: int, concurrency: int) -> CaptionSettings:
    generation = GenerationSettings(temperature=1.0 if samples > 1 else 0.0, min_pixels=1024, max_pixels=1024 * 1024)
    endpoint = EndpointSettings(url=url, model="m", max_concurrency=concurrency, cache_as="here")
    return CaptionSettings(shards=[shards], output=output, samples=samples, generation=generation, endpoint=endpoint)


def main(shards: str, url: str, output: str, samples: str, concurrency: str, workers: str = "1") -> None:
    def saying(items, *_):
        for item in items:
            yield item
            # The step has kept the last one when it asks for the next.
            sys.stdout.write("kept\n" if item is None else f"{item.place[0]} {item.place[1]}\n")
            sys.stdout.flush()

    settings = replace(settings_of(shards, url, output, int(samples), int(concurrency)), workers=int(workers))
    whole, _ = caption(settings, open_shards(shards), progress=saying)
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
