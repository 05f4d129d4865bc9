"""The log-prob operators against everything installed that does their work; `tools/bench.py kernels` is the command.

One process measures all: candidates take turns, so whatever else the machine does meets them alike. Peak memory is
what a run adds to what was there before it. On CUDA, times are events and each turn finds the cache full of other data.
"""

import importlib.util
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from editcaption_mega import platform
from editcaption_mega.kernels import available_backends, linear_log_probs, log_probs

from . import measuring


@dataclass
class Candidate:
    """One way to do the work. `run` does forward and backward -> (log-probs [rows], gradient by the first input)."""

    name: str
    run: Callable[[], tuple[Tensor, Tensor]]
    note: str = ""
    launching: float = 0.0  # seconds of the host
    times: list[float] = field(default_factory=list)
    record: dict = field(default_factory=dict)


@dataclass
class Case:
    rows: int  # response rows
    tokens: int  # rows of the whole batch, for those that can't leave the others out
    vocab: int
    hidden: int
    dtype: torch.dtype
    device: torch.device


def measure(case: Case, repeats: int, say: Callable[[str], None]) -> list[dict]:
    """Both forms -> one record per candidate."""
    return [record for records in measure_forms(case, repeats, say) for record in records]


def measure_forms(case: Case, repeats: int, say: Callable[[str], None]) -> Iterator[list[dict]]:
    """One form after the other -> the records of its candidates."""
    platform.initialize(platform.Layout(), seed=0)  # Megatron's cross entropy wants a process group
    for make in (_from_logits, _linear):
        form, candidates, truth, work = make(case)
        records = []
        for candidate in list(candidates):
            say(f"{form}: {candidate.name}")
            try:
                _first_run(candidate, truth, case)
            except Exception as error:  # a peer that can't run here is a line of the table, not the end of it
                candidates.remove(candidate)
                reason = str(error).strip().splitlines() or [type(error).__name__]
                records.append({"form": form, "name": candidate.name, "error": reason[0][:160]})
        for turn in range(repeats):
            say(f"{form}: turn {turn + 1} of {repeats}")
            for candidate in candidates:
                _prepare(candidate.run)
                candidate.times.append(measuring.timed(candidate.run, case.device, launching=candidate.launching))
        ours = statistics.median(candidates[0].times)
        for candidate in candidates:
            median = statistics.median(candidate.times)
            record = {"form": form, "name": candidate.name, "note": candidate.note, "ms": 1e3 * median}
            record |= {"time_ratio": median / ours, **candidate.record}
            record["memory_ratio"] = record["peak_bytes"] / max(1, candidates[0].record["peak_bytes"])
            if candidate is candidates[0]:
                record |= work(median)
            records.append(record)
        yield records
        del candidates, candidate, truth, work
    platform.destroy()


def _from_logits(case: Case):
    generator, device = torch.Generator(case.device).manual_seed(0), case.device
    logits = (torch.randn(case.rows, case.vocab, generator=generator, device=device) * 2).to(case.dtype)
    targets = torch.randint(0, case.vocab, (case.rows,), generator=generator, device=device)
    upstream = torch.randn(case.rows, generator=generator, device=device)

    on_cpu = case.device.type == "cpu"  # as in training: on a GPU a look at the targets waits for it

    def with_grad(function: Callable[[Tensor], Tensor], copy: bool = False) -> Callable:
        # The model's logits are a fresh buffer each time, and may be overwritten; the copy is made outside the clock.
        def run():
            leaf = run.fresh.requires_grad_()
            found = function(leaf)
            (grad,) = torch.autograd.grad(found, leaf, upstream.to(found.dtype))
            return found, grad

        run.prepare = lambda: setattr(run, "fresh", logits.clone() if copy else logits.detach())
        return run

    def ours(z: Tensor) -> Tensor:
        return log_probs(z, targets, inplace_backward=True, validate_targets=on_cpu)

    def eager(z: Tensor) -> Tensor:
        return z.float().log_softmax(-1).gather(1, targets[:, None])[:, 0]

    def megatron(z: Tensor) -> Tensor:
        return -_megatron(z[:, None], targets[:, None])[:, 0]

    candidates = [
        Candidate("ours", with_grad(ours, copy=True), "in place"),
        Candidate("PyTorch eager", with_grad(eager)),
        Candidate("torch.compile", with_grad(torch.compile(eager))),
        Candidate("Megatron-Core fused", with_grad(megatron, copy=True)),
    ]
    if importlib.util.find_spec("liger_kernel"):

        def liger(z: Tensor) -> Tensor:
            from liger_kernel.transformers.functional import liger_cross_entropy

            return -liger_cross_entropy(z, targets, reduction="none")

        candidates.append(Candidate("Liger", with_grad(liger, copy=True)))
    exact = logits.double().requires_grad_()
    expected = exact.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    truth = (expected.detach(), torch.autograd.grad(expected, exact, upstream.double())[0])
    moved = logits.numel() * logits.element_size() * 3  # read, read again, written

    def work(seconds: float) -> dict:
        copied = measuring.copy_bandwidth(case.device)
        return {"bytes_per_second": moved / seconds, "share_of_copy": moved / seconds / copied}

    return "log-probs from logits", candidates, truth, work


def _linear(case: Case):
    """In one piece, because every candidate works on the same tensors."""
    generator, device = torch.Generator(case.device).manual_seed(1), case.device
    every = torch.randn(case.tokens, case.hidden, generator=generator, device=device)
    weight = torch.randn(case.vocab, case.hidden, generator=generator, device=device) / case.hidden**0.5 * 2
    every, weight = (t.to(case.dtype).requires_grad_() for t in (every, weight))
    targets = torch.randint(0, case.vocab, (case.tokens,), generator=generator, device=device)
    chosen = torch.randperm(case.tokens, generator=generator, device=device)[: case.rows].sort().values
    upstream = torch.randn(case.rows, generator=generator, device=device)
    answers = targets[chosen]
    on_cpu = case.device.type == "cpu"

    def with_grad(function: Callable[[Tensor], Tensor]) -> Callable:
        def run():
            found = function(every.index_select(0, chosen))
            grad, _ = torch.autograd.grad(found, (every, weight), upstream.to(found.dtype))
            return found, grad[chosen]

        return run

    def ours(x: Tensor) -> Tensor:
        return linear_log_probs(x, weight, answers, validate_targets=on_cpu)

    def eager(x: Tensor) -> Tensor:
        return F.linear(x, weight).float().log_softmax(-1).gather(1, answers[:, None])[:, 0]

    def megatron_all_tokens():
        """Every token's logits and loss, masked afterwards: what a Megatron training loop does."""
        losses = _megatron(F.linear(every, weight)[:, None], targets[:, None])[:, 0]
        mask = torch.zeros(case.tokens, device=case.device, dtype=losses.dtype)
        mask[chosen] = upstream.to(losses.dtype)
        grad, _ = torch.autograd.grad(-losses, (every, weight), mask)
        return -losses[chosen], grad[chosen]

    candidates = [
        Candidate("ours", with_grad(ours), "response rows"),
        Candidate("PyTorch eager", with_grad(eager), "response rows"),
        Candidate("torch.compile", with_grad(torch.compile(eager)), "response rows"),
        Candidate("Megatron-Core fused", megatron_all_tokens, f"all {case.tokens} tokens"),
    ]
    if hasattr(F, "linear_cross_entropy"):

        def builtin(x: Tensor) -> Tensor:
            return -F.linear_cross_entropy(x, weight, answers, reduction="none")

        candidates.append(Candidate("F.linear_cross_entropy", with_grad(builtin), "response rows"))
    if importlib.util.find_spec("cut_cross_entropy"):

        def cut(x: Tensor) -> Tensor:
            from cut_cross_entropy import linear_cross_entropy

            kind = "cce" if case.device.type == "cuda" else "torch_compile"
            return -linear_cross_entropy(x, weight, answers, reduction="none", impl=kind)

        candidates.append(Candidate("cut-cross-entropy", with_grad(cut), "response rows"))
    if importlib.util.find_spec("liger_kernel"):

        def liger(x: Tensor) -> Tensor:
            from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

            return -liger_fused_linear_cross_entropy(x, weight, answers, reduction="none")

        candidates.append(Candidate("Liger fused linear", with_grad(liger), "response rows"))
    exact = every.detach()[chosen].double().requires_grad_()
    expected = (exact @ weight.detach().double().T).log_softmax(-1).gather(1, answers[:, None])[:, 0]
    truth = (expected.detach(), torch.autograd.grad(expected, exact, upstream.double())[0])

    def work(seconds: float) -> dict:
        return {"flops_per_second": 6 * case.rows * case.vocab * case.hidden / seconds}

    return "linear log-probs", candidates, truth, work


def _megatron(logits: Tensor, targets: Tensor) -> Tensor:
    from megatron.core import parallel_state
    from megatron.core.fusions.fused_cross_entropy import fused_vocab_parallel_cross_entropy

    return fused_vocab_parallel_cross_entropy(
        logits.contiguous(), targets, parallel_state.get_tensor_model_parallel_group()
    )


def _prepare(run: Callable) -> None:
    if hasattr(run, "prepare"):
        run.prepare()


def _first_run(candidate: Candidate, truth: tuple[Tensor, Tensor], case: Case) -> None:
    """Once to compile, then once for the host's time, and once for errors and memory."""
    _prepare(candidate.run)
    candidate.run()
    _prepare(candidate.run)
    candidate.launching = measuring.launch_seconds(candidate.run, case.device)
    _prepare(candidate.run)
    before = measuring.reset_peak(case.device)
    found, grad = candidate.run()
    candidate.record["peak_bytes"] = measuring.peak(case.device) - before
    candidate.record["log_prob_error"] = (found.double() - truth[0]).abs().max().item()
    candidate.record["grad_error"] = ((grad.double() - truth[1]).abs().max() / truth[1].abs().max()).item()


def markdown(records: list[dict], machine: dict) -> str:
    """The records as one table under one line about the machine."""
    lines = [
        f"{machine['device']}, {machine['threads']} threads, PyTorch {machine['torch']}, backends "
        f"{', '.join(available_backends())}; forward + backward, medians of {machine['repeats']}; {machine['case']}",
        "",
        "| form | candidate | ms | time / ours | peak MiB | memory / ours | log-prob error | gradient error | |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for r in records:
        if "error" in r:
            lines.append(f"| {r['form']} | {r['name']} | | | | | | | not run: {r['error'].replace('|', '/')} |")
            continue
        notes = [r["note"]] if r["note"] else []
        if "bytes_per_second" in r:
            notes.append(f"{r['bytes_per_second'] / 1e9:.1f} GB/s, {r['share_of_copy']:.0%} of a copy's")
        if "flops_per_second" in r:
            notes.append(f"{r['flops_per_second'] / 1e12:.3f} TFLOP/s")
        lines.append(
            f"| {r['form']} | {r['name']} | {r['ms']:.1f} | {r['time_ratio']:.2f} | {r['peak_bytes'] / 2**20:.0f} "
            f"| {r['memory_ratio']:.1f} | {r['log_prob_error']:.1e} | {r['grad_error']:.1e} | {'; '.join(notes)} |"
        )
    return "\n".join(lines) + "\n"
