"""A small study for annotators: four synthetic pairs and two models' instructions, one of which refuses a pair."""

from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.records import Instruction

NASTY = """Make it red <img src=x onerror="document.title='owned'"> & 'blue' <script>document.title='owned'</script>"""
MODELS = ("secret-model-one", "secret-model-two")


def write_benchmark(folder, count=4):
    settings = WorldSettings()
    with ShardWriter(folder) as writer:
        for index in range(count):
            pair = render_pair(settings, 3, index)
            writer.add(pair.pair, encode_png(pair.source), "png", encode_png(pair.target), "png")
    return Benchmark("tiny", folder)


def instructions(benchmark):
    one, two = MODELS
    rows = [
        Instruction(benchmark="tiny", id=pair.id, model=one, instruction=pair.instruction) for pair in benchmark.pairs()
    ]
    rows += [Instruction(benchmark="tiny", id=pair, model=two, instruction=NASTY) for pair in benchmark.ids[1:]]
    refusal = Instruction(benchmark="tiny", id=benchmark.ids[0], model=two, reason="refused by the content filter")
    return [*rows, refusal]
