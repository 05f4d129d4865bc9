"""How long the two conversions take against copying the same files, and how much memory each of their processes takes.
`tools/bench.py conversion` is the command."""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from editcaption_mega.conversion.jobs import OutputFile, drop_cached, level_files
from editcaption_mega.conversion.rules import rules_for, unique_rules
from editcaption_mega.conversion.tensor_file import TensorForm, write_parts
from editcaption_mega.model import Architecture

from .processes import status_bytes

TOOLS = Path(__file__).resolve().parents[1]
HIDDEN, FFN, EXPERTS = 2048, 768, 128  # of Qwen3-VL-30B-A3B
LAYER_BYTES = 2 * (3 * EXPERTS * FFN * HIDDEN + 4 * HIDDEN * HIDDEN)
WHOLE_BYTES = int(2.4e9)  # of its vocabulary and vision tower
PART = 32 << 20  # bytes of random values that are made at once


def measure(gigabytes: float, workers: int, repeats: int, folder: Path | None, say: Callable[[str], None]) -> dict:
    """Seconds of copying and of both conversions, by turns, and the memory of their processes."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as temporary:
        root = Path(temporary)
        largest = write_model(root / "model", gigabytes)
        size = sum(path.stat().st_size for path in root.rglob("*.safetensors"))
        free = shutil.disk_usage(root).free
        if free < 2.2 * size:
            raise ValueError(
                f"{root} has {free / 1e9:.1f} GB left, {2.2 * size / 1e9:.1f} are needed: --folder names another"
            )
        seconds: dict[str, list[float]] = {way: [] for way in ("copy", "hf_to_megatron", "copy_back", "megatron_to_hf")}
        memory = {"hf_to_megatron": 0, "megatron_to_hf": 0}
        processor = dict.fromkeys(seconds, 0.0)
        for number in range(1, repeats + 1):
            say(f"turn {number} of {repeats}, {size / 1e9:.2f} GB")
            _turn(root, workers, seconds, memory, processor)
        medians = {way: statistics.median(values) for way, values in seconds.items()}
        return {
            "bytes": size, "largest_bytes": largest, "workers": workers, "seconds": medians, "anonymous_bytes": memory,
            "processor_seconds": {way: total / repeats for way, total in processor.items()},
            "ratio": {
                "hf_to_megatron": medians["hf_to_megatron"] / medians["copy"],
                "megatron_to_hf": medians["megatron_to_hf"] / medians["copy_back"],
            },
        }  # fmt: skip


def _turn(
    root: Path,
    workers: int,
    seconds: dict[str, list[float]],
    memory: dict[str, int],
    processor: dict[str, float],
) -> None:
    model, store, back, copy = (root / name for name in ("model", "store", "back", "copy"))
    for way, source, target, arguments in (
        ("hf_to_megatron", model, store, ["--hf", model, "--output", store]),
        ("megatron_to_hf", store, back, ["--checkpoint", store, "--output", back]),
    ):
        drop_cached(source.glob("*.safetensors"))
        copying = "copy" if source == model else "copy_back"
        began, before = time.monotonic(), _processor_seconds()
        copy_synced(source, copy)
        seconds[copying].append(time.monotonic() - began)
        processor[copying] += _processor_seconds() - before
        shutil.rmtree(copy)
        drop_cached(source.glob("*.safetensors"))
        command = [sys.executable, TOOLS / f"{way}.py", *arguments, "--workers", str(workers)]
        began, before = time.monotonic(), _processor_seconds()
        peak = run_watched([str(word) for word in command])
        seconds[way].append(time.monotonic() - began)
        memory[way] = max(memory[way], peak)
        processor[way] += _processor_seconds() - before
        assert target.is_dir(), f"{way} ended well and made nothing"
    shutil.rmtree(store)
    shutil.rmtree(back)


def write_model(folder: Path, gigabytes: float) -> int:
    """A folder of random bf16 weights with the expert shapes of 30B-A3B, of about that size -> bytes of its largest
    tensor. Below 4 GB the vocabulary and the vision tower are small, below one layer there are fewer experts."""
    size = gigabytes * 1e9
    whole = size > 4e9
    layers = max(1, round((size - WHOLE_BYTES * whole) / LAYER_BYTES))
    experts = min(EXPERTS, max(2, int(EXPERTS * size / LAYER_BYTES)))
    config = _config(layers, experts, vocabulary=151936 if whole else 1024, depth=27 if whole else 3)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    rules = unique_rules(rules_for(Architecture.from_folder(folder), experts_in_out=True))
    forms = {piece.name: TensorForm(torch.bfloat16, piece.hf_shape) for rule in rules for piece in rule.pieces}
    shares = level_files(forms, 2 << 30)
    generator, weight_map = torch.Generator().manual_seed(1), {}
    for number, share in enumerate(shares, 1):
        file = OutputFile(f"model-{number:05d}-of-{len(shares):05d}.safetensors", share, {"format": "pt"})
        weight_map |= dict.fromkeys(share, file.name)

        def parts(name: str, share: dict[str, TensorForm] = share) -> Iterator[torch.Tensor]:
            for start in range(0, share[name].nbytes, PART):
                count = min(PART, share[name].nbytes - start) // 2
                yield torch.randint(-30000, 30000, (count,), dtype=torch.int16, generator=generator)

        for _ in write_parts(folder / file.name, file.forms, parts, metadata=file.metadata, digest=False):
            pass
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return max(form.nbytes for form in forms.values())


def _config(layers: int, experts: int, *, vocabulary: int, depth: int) -> dict:
    rope = {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    text = {
        "model_type": "qwen3_vl_moe_text", "hidden_size": HIDDEN, "num_hidden_layers": layers, "num_experts": experts,
        "moe_intermediate_size": FFN, "num_experts_per_tok": 2, "norm_topk_prob": True, "intermediate_size": 6144,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "vocab_size": vocabulary,
        "rms_norm_eps": 1e-6, "hidden_act": "silu", "attention_bias": False, "rope_scaling": rope, "rope_theta": 5e6,
    }  # fmt: skip
    vision = {
        "depth": depth, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3, "out_hidden_size": HIDDEN,
        "num_position_embeddings": 2304, "hidden_act": "gelu_pytorch_tanh",
        "deepstack_visual_indexes": list(range(min(3, layers))),
    }  # fmt: skip
    return {
        "model_type": "qwen3_vl_moe", "text_config": text, "vision_config": vision, "tie_word_embeddings": False,
        "image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8,
    }  # fmt: skip


def copy_synced(source: Path, target: Path) -> None:
    """cp, and fsync of each file."""
    subprocess.run(["cp", "-r", source, target], check=True)
    for path in target.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def run_watched(command: list[str]) -> int:
    """Run a program -> the most anonymous memory, in bytes, that any of its processes had."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.05):
            for member in _family(process.pid):
                peak = max(peak, status_bytes("RssAnon", member))

    watcher = threading.Thread(target=watch)
    watcher.start()
    errors = process.communicate()[1]
    ended.set()
    watcher.join()
    if process.returncode:
        raise ValueError(f"{' '.join(command)} ended with {process.returncode}: {errors[-500:]}")
    return peak


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _family(int(child))


def _processor_seconds() -> float:
    """Of all programs that this process has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def markdown(record: dict, machine: dict) -> str:
    seconds, memory, processor = record["seconds"], record["anonymous_bytes"], record["processor_seconds"]
    lines = [
        f"{machine['case']}; {record['bytes'] / 1e9:.2f} GB, {record['workers']} processes, median of "
        f"{machine['repeats']}; largest tensor {record['largest_bytes'] / 1e9:.2f} GB; torch {machine['torch']}\n",
        "| | seconds | cp + fsync | ratio | processor | of cp | anonymous memory of a process |",
        "|---|---|---|---|---|---|---|",
    ]
    for way, copy in (("hf_to_megatron", "copy"), ("megatron_to_hf", "copy_back")):
        lines.append(
            f"| {way} | {seconds[way]:.1f} | {seconds[copy]:.1f} | {record['ratio'][way]:.2f} | "
            f"{processor[way]:.1f} s | {processor[copy]:.1f} s | {memory[way] / 1e9:.2f} GB |"
        )
    return "\n".join(lines) + "\n"
