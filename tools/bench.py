"""Measures the project against everything installed that does the same work, on this machine."""

import argparse
import json
import math
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from editcaption_mega import cli
from editcaption_mega.settings import PixelLimits

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for `benches`: Python leaves it out under -P
DTYPES = ("float32", "bfloat16", "float16")
SUITES = {
    "kernels": "log-probs from logits and from hidden rows, forward and backward, against each installed peer",
    "sft": "whole SFT steps against a plain transformers loop and TRL's SFTTrainer, the same model and pairs",
    "layer": "a dense and an expert decoder layer and a vision block against transformers' own, the same weights",
    "dpo": "whole DPO steps at the proportions of training (two pictures of 1024 px, answers of 100 tokens, a "
    "vocabulary of 151,936) against TRL's DPOTrainer",
    "dpo-rows": "a shared-prompt row against two plain packed sequences",
    "dpo-step": "whole DPO steps of small pairs against TRL's DPOTrainer, the same model and pairs",
    "loader": "reading pairs of pictures against webdataset + transformers' processor, and what a step waits for it",
    "import": "an import of --pairs pairs by one process and by --workers, with their memory",
    "checkpoint": "how long training stands still for a checkpoint written beside it, against one that it waits for",
    "conversion": "both conversions of a model with real expert shapes against cp + fsync, and their memory",
    "lora": "memory and time of steps that train adapters, against those that train all weights of the same model",
    "start": "what the start of a preference job on --listed-pairs pairs costs a rank before its model is built",
    "best-of": "a model's best of n and its self-check against its greedy captions (--model, --reference, --shards)",
    "scores": "how well a model's log-probs tell right directions from turned ones, on pairs of known truth",
    "duplicates": "the search for duplicates where copies are planted among 2,000 pairs, and its time for "
    "--listed-pairs generated ones (--shards: real pairs, too)",
    "client": "rates of the endpoint client against a local scripted server",
    "captions": "rate, processor and memory of `curate.py caption` against a local server, by number of workers",
}
Measured = tuple[list[dict], str, dict]  # records, table, machine


def parser() -> argparse.ArgumentParser:
    suites = "; ".join(f"{name}: {text}" for name, text in SUITES.items())
    parser = cli.argument_parser(
        f"{__doc__} Peers beside PyTorch and Megatron-Core are measured when they are installed: "
        "pip install -e .[bench]",
        example="python tools/bench.py kernels --dtype bfloat16 --rows 512 --vocab 151936 --hidden 2048\n"
        "python tools/bench.py client --faults\n"
        "python tools/bench.py captions --requests 50000 --concurrency 256 --workers 1 2 4",
    )
    parser.add_argument("suite", choices=list(SUITES), help=f"what to measure ({suites})")
    parser.add_argument("--repeats", type=int, default=3, help="turns; the median counts (default 3)")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="folder for SUITE.md, SUITE.json")
    kernels = parser.add_argument_group("kernels")
    kernels.add_argument("--rows", type=int, default=512, help="response tokens (default 512)")
    kernels.add_argument("--tokens", type=int, default=16384, help="tokens of the whole batch (default 16384)")
    kernels.add_argument("--vocab", type=int, default=32768)
    kernels.add_argument("--hidden", type=int, default=512)
    kernels.add_argument("--dtype", choices=DTYPES, default="float32")
    kernels.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: cuda where it is")
    dpo = parser.add_argument_group("sft, dpo, dpo-rows, dpo-step (on the CPU)")
    dpo.add_argument("--prompt", type=int, default=2500, help="dpo-rows: tokens of the prompt (default 2500)")
    dpo.add_argument("--response", type=int, default=100, help="dpo-rows: tokens of each answer (default 100)")
    dpo.add_argument("--pairs", type=int, help="of a step (default 32; dpo: 2); import: of all (default 8000)")
    layer = parser.add_argument_group("layer (on the CPU)")
    layer.add_argument("--layer-tokens", type=int, default=1024, help="tokens or patches (default 1024)")
    layer.add_argument("--layer-hidden", type=int, default=512, help="a multiple of 64 (default 512)")
    loader = parser.add_argument_group("loader")
    loader.add_argument("--picture-pairs", type=int, default=32, help="pairs of 1024 px JPEG (default 32)")
    loader.add_argument("--samples", type=int, default=256, help="in a step (default 256)")
    checkpoint = parser.add_argument_group("checkpoint, conversion, lora (on the CPU)")
    checkpoint.add_argument("--gigabytes", type=float, default=1.0, help="of a checkpoint, about (default 1)")
    checkpoint.add_argument(
        "--folder", type=Path, metavar="DIR", help="conversion: where it works (default: temporary)"
    )
    start = parser.add_argument_group("start, duplicates (on the CPU)")
    start.add_argument("--listed-pairs", type=int, default=20_000, help="pairs of the data (default 20000)")
    scores = parser.add_argument_group("scores, best-of")
    scores.add_argument(
        "--reference", type=Path, metavar="DIR", help="best-of: the folder that the model's DPO began with"
    )
    scores.add_argument("--n", type=int, default=8, metavar="N", help="best-of: samples per pair (default 8)")
    scores.add_argument("--model", type=Path, metavar="DIR", help="checkpoint, run folder or Hugging Face folder")
    scores.add_argument("--shards", type=Path, metavar="DIR", help="pairs with right instructions")
    scores.add_argument("--prompt-file", default="", metavar="FILE", help="another prompt, as in training")
    scores.add_argument("--check-prompt", default="", metavar="FILE", help="best-of: another one that shows a draft")
    scores.add_argument("--min-pixels", type=int, default=PixelLimits().min_pixels, metavar="N", help="as in training")
    client = parser.add_argument_group("client, captions")
    client.add_argument("--requests", type=int, default=10_000, help="a multiple of 10 (default 10000)")
    client.add_argument("--concurrency", type=int, default=128)
    client.add_argument("--latency", type=float, default=0.05, help="seconds per reply (default 0.05)")
    processes = "captions, import: processes (default 1 and 2); conversion: the largest counts"
    client.add_argument("--workers", type=int, nargs="+", default=[1, 2], help=processes)
    client.add_argument("--side", type=int, default=96, help="captions, import: pixels of pictures (default 96)")
    client.add_argument("--faults", action="store_true", help="also with one call in five faulty")
    return parser


def check(arguments: argparse.Namespace) -> None:
    """Raise ArgumentError for sizes that cannot be measured, before any work."""
    sizes = "rows", "tokens", "vocab", "hidden", "repeats", "response", "picture_pairs", "samples", "layer_tokens"
    for name in (*sizes, "requests", "concurrency", "listed_pairs"):
        if getattr(arguments, name) < 1:
            option = name.replace("_", "-")
            raise cli.ArgumentError(f"--{option} must be at least 1, found {getattr(arguments, name)}")
    if arguments.prompt < 64:
        raise cli.ArgumentError(f"--prompt must be at least 64, to hold two pictures, found {arguments.prompt}")
    if arguments.pairs < 1 or (arguments.pairs % 4 and arguments.suite != "dpo"):
        raise cli.ArgumentError(f"--pairs must be a multiple of 4 (TRL takes 4 at a time), found {arguments.pairs}")
    if arguments.layer_hidden < 64 or arguments.layer_hidden % 64:
        raise cli.ArgumentError(f"--layer-hidden must be a multiple of 64, found {arguments.layer_hidden}")
    if arguments.rows > arguments.tokens:
        raise cli.ArgumentError(f"--rows {arguments.rows} are part of --tokens {arguments.tokens} and can't be more")
    if arguments.requests % 10:
        raise cli.ArgumentError(f"--requests must be a multiple of 10, found {arguments.requests}")
    if arguments.output.exists() and not arguments.output.is_dir():
        raise cli.ArgumentError(f"--output {arguments.output} is a file: name a folder")
    if arguments.suite == "best-of" and not (arguments.model and arguments.reference and arguments.shards):
        raise cli.ArgumentError("best-of needs --model, --reference and --shards (pairs of the synthetic world)")
    if arguments.n < 2:
        raise cli.ArgumentError(f"--n must be at least 2, found {arguments.n}")
    if arguments.suite == "scores" and not (arguments.model and arguments.shards):
        raise cli.ArgumentError("scores needs --model and --shards: a trained model, and pairs with right instructions")
    if min(arguments.workers) < 1 or max(arguments.workers) > arguments.concurrency:
        raise cli.ArgumentError(f"--workers must lie in 1 .. {arguments.concurrency} (--concurrency)")
    for name in ("gigabytes", "latency"):
        if not 0 < getattr(arguments, name) < math.inf:  # NaN is not above anything
            raise cli.ArgumentError(f"--{name} must be above 0, found {getattr(arguments, name)}")
    cli.check_named_folder("--folder", arguments.folder, written=True)
    for name in ("model", "reference", "shards"):
        cli.check_named_folder(f"--{name}", getattr(arguments, name))


def main(argv):
    arguments = parser().parse_args(argv)
    if arguments.pairs is None:
        arguments.pairs = {"dpo": 2, "import": 8000}.get(arguments.suite, 32)
    check(arguments)
    suites = {"kernels": kernels, "layer": layer, "sft": sft, "dpo": dpo, "dpo-rows": dpo_rows, "dpo-step": dpo_step}
    suites |= {"loader": loader, "scores": scores, "best-of": best_of, "client": client, "captions": captions}
    suites |= {"checkpoint": checkpoint, "conversion": conversion, "start": start, "duplicates": duplicates}
    suites |= {"import": suite_of("imports"), "lora": suite_of("adapters")}
    measure = suites[arguments.suite]
    records, table, machine = measure(arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / f"{arguments.suite}.md").write_text(table)
    content = json.dumps({"machine": machine, "records": records}, indent=2)
    (arguments.output / f"{arguments.suite}.json").write_text(content + "\n")
    print(table, end="")


def kernels(arguments: argparse.Namespace) -> Measured:
    import torch
    from benches import kernels
    from benches.measuring import machine_facts

    on_gpu = torch.cuda.is_available()
    if arguments.device == "cuda" and not on_gpu:
        raise cli.ArgumentError("--device cuda: PyTorch sees no GPU here; use --device cpu")
    use_gpu = arguments.device == "cuda" or (arguments.device == "auto" and on_gpu)
    device = torch.device("cuda", 0) if use_gpu else torch.device("cpu")
    sizes = (arguments.rows, arguments.tokens, arguments.vocab, arguments.hidden)
    records = kernels.measure(kernels.Case(*sizes, getattr(torch, arguments.dtype), device), arguments.repeats, say)
    machine = machine_facts(
        arguments.repeats,
        "{} response rows of {}, vocabulary {}, hidden {}, {}".format(*sizes, arguments.dtype),
        torch.cuda.get_device_name(0) if use_gpu else "",
    )
    return records, kernels.markdown(records, machine), machine


def layer(arguments: argparse.Namespace) -> Measured:
    from benches import layer
    from benches.measuring import machine_facts

    records = layer.measure(layer.Case(arguments.layer_tokens, arguments.layer_hidden), arguments.repeats, say)
    case = f"forward and backward of {arguments.layer_tokens} tokens or patches, hidden {arguments.layer_hidden}, fp32"
    machine = machine_facts(arguments.repeats, case)
    return records, layer.markdown(records, machine), machine


def sft(arguments: argparse.Namespace) -> Measured:
    require_trl(arguments.suite)
    from benches import sft_steps
    from benches.trl_trainer import MICRO_BATCH

    peers = f"the others take {MICRO_BATCH} pairs at once, and TRL's loss is the mean of those"
    case = f"SFT steps of {arguments.pairs} pairs with two pictures of 81 tokens, fp32; {peers}"
    return whole_steps(sft_steps.measure(arguments.pairs, arguments.repeats, say), case, arguments)


def dpo_step(arguments: argparse.Namespace) -> Measured:
    require_trl(arguments.suite)
    from benches import dpo_steps

    case = f"{arguments.pairs} pairs with two pictures of 81 tokens"
    return dpo_steps_of(dpo_steps.SMALL, case, arguments)


def dpo(arguments: argparse.Namespace) -> Measured:
    require_trl(arguments.suite)
    from benches import dpo_steps

    case = f"{arguments.pairs} pairs with two pictures of 1,024 tokens and answers of 100, vocabulary 151,936"
    return dpo_steps_of(dpo_steps.REALISTIC, case, arguments)


def dpo_steps_of(sizes, case: str, arguments: argparse.Namespace) -> Measured:
    from benches import dpo_steps

    records = dpo_steps.measure(sizes, arguments.pairs, arguments.repeats, say)
    return whole_steps(records, f"DPO steps of {case}, fp32; TRL takes {sizes.micro_batch} at once", arguments)


def whole_steps(records: list[dict], case: str, arguments: argparse.Namespace) -> Measured:
    from benches import ways
    from benches.measuring import machine_facts

    machine = machine_facts(arguments.repeats, f"whole {case}; pairs/s counts reading the pictures")
    return records, ways.markdown(records, machine), machine


def require_trl(suite: str) -> None:
    try:
        import trl  # noqa: F401
    except ImportError:
        raise cli.ArgumentError(f"{suite} compares with trl, which is not installed: pip install -e .[test]") from None


def dpo_rows(arguments: argparse.Namespace) -> Measured:
    from benches import dpo_rows, ways
    from benches.measuring import machine_facts

    records = dpo_rows.measure(arguments.prompt, arguments.response, arguments.repeats, say)
    case = f"forward and backward of one pair, prompt {arguments.prompt}, answers {arguments.response} tokens, fp32"
    machine = machine_facts(arguments.repeats, case)
    return records, ways.markdown(records, machine), machine


def loader(arguments: argparse.Namespace) -> Measured:
    from benches import loader
    from benches.measuring import machine_facts

    records = loader.measure(arguments.picture_pairs, arguments.samples, arguments.repeats, say)
    case = f"{arguments.picture_pairs} pairs of JPEG of {loader.SIDE} px, one thread each, host work only"
    machine = machine_facts(arguments.repeats, case)
    return records, loader.markdown(records, machine), machine


def checkpoint(arguments: argparse.Namespace) -> Measured:
    from benches import checkpoints
    from benches.measuring import machine_facts

    record = checkpoints.measure(arguments.gigabytes, arguments.repeats, say)
    machine = machine_facts(arguments.repeats, "SFT steps of one pair, fp32, one rank, temporary folder")
    return [record], checkpoints.markdown(record, machine), machine


def conversion(arguments: argparse.Namespace) -> Measured:
    from benches import conversions
    from benches.measuring import machine_facts

    workers = max(arguments.workers)
    record = conversions.measure(arguments.gigabytes, workers, arguments.repeats, arguments.folder, say)
    machine = machine_facts(arguments.repeats, "random weights in the expert shapes of 30B-A3B")
    return [record], conversions.markdown(record, machine), machine


def duplicates(arguments: argparse.Namespace) -> Measured:
    from benches import duplicates
    from benches.measuring import machine_facts

    machine = machine_facts(1, f"{duplicates.PAIRS:,} pairs with copies, {arguments.listed_pairs:,} generated")
    records = duplicates.measure(arguments.shards, arguments.listed_pairs, say)
    return records, duplicates.markdown(records), machine


def start(arguments: argparse.Namespace) -> Measured:
    from benches import start
    from benches.measuring import machine_facts

    records = start.measure(arguments.listed_pairs, say)
    machine = machine_facts(1, f"start of a preference job on {arguments.listed_pairs:,} pairs, without its model")
    return records, start.markdown(records, machine), machine


def suite_of(module: str) -> Callable[[argparse.Namespace], Measured]:
    """A suite that is a module of its own."""
    return lambda arguments: import_module(f"benches.{module}").measured(arguments, say)


def best_of(arguments: argparse.Namespace) -> Measured:
    from benches import best_of
    from benches.measuring import machine_facts

    work = (arguments.output / "best-of").resolve()
    work.mkdir(parents=True, exist_ok=True)
    folders = [path.resolve() for path in (arguments.model, arguments.reference, arguments.shards)]
    prompt, check_prompt = (
        str(Path(name).resolve()) if name else "" for name in (arguments.prompt_file, arguments.check_prompt)
    )
    records = best_of.measure(
        *folders, work, samples=arguments.n, prompts=(prompt, check_prompt), min_pixels=arguments.min_pixels,
        say=say,
    )  # fmt: skip
    case = (
        f"{records[0]['pairs']} pairs of {arguments.shards}, {arguments.model}, {arguments.n} samples at temperature 1"
    )
    return records, best_of.markdown(records, case), machine_facts(1, case)


def scores(arguments: argparse.Namespace) -> Measured:
    from benches import scores
    from benches.measuring import machine_facts

    work = arguments.output / "scores"
    work.mkdir(parents=True, exist_ok=True)
    options = ["--min-pixels", str(arguments.min_pixels), "--prompt", arguments.prompt_file]
    records = scores.measure(arguments.model, arguments.shards, work, options, say)
    case = f"right instructions of {arguments.shards} against those with their directions turned, by {arguments.model}"
    return records, scores.markdown(records, case), machine_facts(1, case)


def client(arguments: argparse.Namespace) -> Measured:
    from benches import client
    from benches.measuring import machine_facts

    count, concurrency, latency = arguments.requests, arguments.concurrency, arguments.latency
    records = client.measure_all(count, concurrency, latency, faults=arguments.faults)
    machine = machine_facts(1, f"{count} requests, {concurrency} at once, {latency} s per reply")
    return records, client.markdown(records, machine), machine


def captions(arguments: argparse.Namespace) -> Measured:
    from benches import captions

    count, concurrency, latency = arguments.requests, arguments.concurrency, arguments.latency
    records = captions.measure(count, concurrency, latency, arguments.side, arguments.workers, say)
    from benches.measuring import machine_facts  # it brings PyTorch, whose memory is none of the client's

    case = f"{count} pairs of {arguments.side} px, {concurrency} in flight, {latency} s per reply"
    machine = machine_facts(1, case)
    return records, captions.markdown(records, machine), machine


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
