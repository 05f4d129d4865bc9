"""The stages of the curation demo: which commands, in which order, on which files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from editcaption_mega.curation.demo.demo_files import DemoFiles

from .stages import ROOT, Stage

PROMPT = ROOT / "configs/demo_prompt.yaml"
MIN_PIXELS, MAX_PIXELS = 1024, 1 << 16  # of pictures, as the model sees them: 96 x 96 stays as it is
SEED = 7  # of the pool: no training pair is among them
QUOTAS = "semantic=25,stylistic=25,structural=50"
TURNED = ("given", "swapped", "mirrored")  # views of the pictures
_PICTURES = ("--prompt", PROMPT, "--min-pixels", MIN_PIXELS, "--max-pixels", MAX_PIXELS)


@dataclass(frozen=True)
class DemoPlan:
    """What is demonstrated. model: the captioner, a Hugging Face folder; None: one is trained. reference: that which
    its DPO began with. real: JSONL of real pairs. label_studio: whether people's tasks go through one."""

    files: DemoFiles
    world: Path
    pairs: int
    samples: int
    real: Path | None
    model: Path | None
    reference: Path | None
    training_pairs: int
    training_steps: int
    sft_steps: int
    preference_tasks: int
    annotators: int
    error_rate: float
    ranks: int
    label_studio: bool

    @property
    def captioner(self) -> Path:
        return self.model or self.files.root / "captioner/sft_hf"

    @property
    def best(self) -> str:
        """The column by which one of a pair's captions is chosen."""
        return "log_prob_per_token"

    @property
    def rules(self) -> list[str]:
        """Of the filter: equal pictures, faults of the words, what the model believes least and agrees on least."""
        believed = ["log_prob_per_token>=q0.25", "agreement>=q0.1"]
        return ["identical=false", "lint:none", *believed, *(["reward>=q0.25"] if self.reference else [])]


def first_stages(plan: DemoPlan) -> Iterator[Stage]:
    """Up to synthetic pairs as files, to which real ones are joined."""
    files, out = plan.files, plan.files.root
    if plan.model is None:
        yield Stage(
            "captioner", "a small model learns to write instructions (SFT), and errs",
            ["tools/demo.py", "--sft-only", "--world", plan.world, "--output", out / "captioner",
             "--pairs", plan.training_pairs, "--steps", plan.training_steps, "--ranks", plan.ranks],
            usual=0.15 * plan.training_steps, whole=out / "captioner/sft_hf", writes=(out / "captioner",),
            begun=out / "captioner/sft/metrics.jsonl",
        )  # fmt: skip
    yield _shards(
        "render", "synthetic pairs, whose truth is set aside", files.shards("synthetic"),
        ["tools/make_shards.py", "--format", "synthetic", "--input", plan.world, "--count", plan.pairs, "--seed", SEED],
    )  # fmt: skip
    yield Stage(
        "raw", "the synthetic pairs as files",
        ["tools/curate.py", "export", "--shards", files.shards("synthetic"), "--format", "jsonl",
         "--output", out / "raw/synthetic"],
        whole=out / "raw/synthetic", writes=(out / "raw/synthetic",),
    )  # fmt: skip


def scoring_stages(plan: DemoPlan) -> Iterator[Stage]:
    """From raw pairs to those that the filter leaves."""
    files = plan.files
    pool, captions = files.shards("pool"), files.column_file("captions")
    yield _shards(
        "pool", "synthetic and real pairs, of which nothing is said", pool,
        ["tools/make_shards.py", "--format", "jsonl", "--input", files.root / "raw/pool.jsonl",
         "--allow-missing-instruction"],
    )  # fmt: skip
    yield _columns(
        files, "captions", f"{plan.samples} captions of each pair, from a `transformers serve` of the job's own",
        ["tools/curate.py", "caption", _caption_settings(plan)], usual=0.06 * plan.pairs * plan.samples,
        begun=captions.with_suffix(".made") / "all/lines.jsonl",
    )  # fmt: skip
    views = [(view, plan.captioner, view) for view in TURNED]
    for name, model, view in [*views, *([("reference", plan.reference, "given")] if plan.reference else [])]:
        yield Stage(
            f"log_probs_{name}", f"likelihoods of each caption: {_WHOSE.get(name, f'the pictures {name}')}",
            ["tools/log_probs.py", "--checkpoint", model, "--shards", pool, "--texts", captions, "--opposites",
             "--view", view, *_PICTURES, "--output", files.log_probs(name)],
            whole=files.log_probs(name), writes=(files.log_probs(name),),
            begun=files.log_probs(name).with_suffix(".jsonl.partial"),
        )  # fmt: skip
    given = [word for view in TURNED for word in (f"--{view}", files.log_probs(view))]
    reference = ["--reference", files.log_probs("reference")] if plan.reference else []
    of_captions = ["--shards", pool, "--captions", captions]
    yield _columns(
        files, "log_probs", "what the model believes of each caption",
        ["tools/curate.py", "score", "log-probs", *of_captions, *given, *reference,
         "--output", files.column_file("log_probs")],
    )  # fmt: skip
    yield _columns(
        files, "agreement", "how far the captions of a pair agree",
        ["tools/curate.py", "score", "agreement", *of_captions, "--output", files.column_file("agreement")],
    )  # fmt: skip
    yield _columns(
        files, "measures", "what changed between the pictures",
        ["tools/curate.py", "measure", "--shards", pool, "--workers", 1, "--output", files.column_file("measures")],
    )  # fmt: skip
    yield _columns(
        files, "lint", "faults that the words show",
        ["tools/curate.py", "lint", "--shards", pool, "--instructions", captions,
         "--output", files.column_file("lint")],
    )  # fmt: skip
    columns = [files.column_file(name) for name in ("log_probs", "agreement", "measures", "lint")]
    yield _shards(
        "filter", "which pairs stay: rules, and quotas of a quarter, a quarter and a half", files.shards("filtered"),
        ["tools/curate.py", "filter", "--shards", pool, "--instructions", captions, "--best", plan.best,
         "--columns", *columns, "--rules", *plan.rules, "--quotas", QUOTAS],
    )  # fmt: skip


def people_stages(plan: DemoPlan, server: str) -> Iterator[Stage]:
    """Tasks out, answers in. server: Label Studio's address, "" for JSONL."""
    files = plan.files
    low = f"{files.column_file('log_probs')}:log_prob_per_token:low"
    hints = ["--hints", f"{files.column_file('lint')}:lint"]
    refine = ["refine-export", "--shards", files.shards("filtered"), "--first", low, *hints]
    preference = ["preference-export", "--shards", files.shards("pool"), "--captions", files.column_file("captions")]
    preference += ["--skip", files.tasks("refine"), "--first", low, "--limit", plan.preference_tasks, *hints]
    for form, words in (("refine", refine), ("preference", preference)):
        to_server = ["--label-studio", server, "--project", form, "--annotators", plan.annotators] if server else []
        yield Stage(
            f"{form}_export", f"tasks for people ({form}){', in Label Studio' if server else ''}",
            ["tools/curate.py", *words, "--folder", files.tasks(form), *to_server],
            whole=None if server else files.tasks(form) / "tasks.jsonl",
            writes=() if server else (files.tasks(form),),
        )  # fmt: skip
        where = ["--label-studio", server, "--project", form] if server else ["--output", files.answers(form)]
        yield Stage(
            f"{form}_answers",
            f"{plan.annotators} simulated annotators, who err in {100 * plan.error_rate:g} % of the tasks",
            ["tools/demos/file_answers.py", "--folder", files.tasks(form), "--truth", files.truth,
             "--annotators", plan.annotators, "--error-rate", plan.error_rate, *where],
            whole=None if server else files.answers(form), writes=() if server else (files.answers(form),),
        )  # fmt: skip
        shards, name = ("filtered", "sft") if form == "refine" else ("pool", "preference")
        back = ["--label-studio", server, "--project", form] if server else ["--answers", files.answers(form)]
        yield _shards(
            f"{form}_import", f"opinions of several become one: the {'SFT' if name == 'sft' else name} set",
            files.shards(name),
            ["tools/curate.py", f"{form}-import", "--shards", files.shards(shards), "--folder", files.tasks(form),
             *back],
        )  # fmt: skip


def training_stages(plan: DemoPlan) -> Iterator[Stage]:
    """Whether the new sets are sound, and can be trained on."""
    files = plan.files
    for name in ("sft", "preference"):
        yield Stage(
            f"validate_{name}", f"every byte of the {name} set", ["tools/validate_shards.py", files.shards(name)]
        )  # fmt: skip
    halfway = max(1, plan.sft_steps // 2)
    begun, last = (files.run / f"checkpoints/step_{step:08d}" for step in (halfway, plan.sft_steps))
    yield Stage(
        "sft", f"{plan.sft_steps} steps of SFT on what came out",
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", plan.ranks, "launch/pretrain_sft.sh",
         ROOT / "configs/sft_demo.yaml", f"model.folder={plan.captioner}", f"data.shards=[{files.shards('sft')}]",
         f"data.prompt={PROMPT}", f"data.max_pixels={MAX_PIXELS}", f"training.output={files.run}",
         f"training.steps={plan.sft_steps}", "training.log_every=5", f"checkpoint.every={halfway}",
         "optimizer.learning_rate=2e-4", "optimizer.warmup_steps=2"],
        whole=last, writes=(files.run,), begun=begun,
    )  # fmt: skip


_WHOSE = {"given": "the pictures as they are", "reference": "by the model that DPO began with"}


def _shards(name: str, what: str, output: Path, command: list[object]) -> Stage:
    return Stage(name, what, [*command, "--output", output], whole=output / "index.json", writes=(output,))


def _columns(files: DemoFiles, name: str, what: str, command: list[object], **moments: Any) -> Stage:
    whole = files.column_file(name)
    return Stage(name, what, command, whole=whole, writes=(whole, whole.with_suffix(".made")), **moments)


def _caption_settings(plan: DemoPlan) -> Path:
    """Written each time, the same: one request at a time, so that a seed says what is drawn."""
    settings = {
        "shards": [str(plan.files.shards("pool"))], "output": str(plan.files.column_file("captions")),
        "samples": plan.samples,
        "server": {"program": "transformers", "model": str(plan.captioner)},
        "endpoint": {"max_concurrency": 1},
        "generation": {"prompt": str(PROMPT), "temperature": 0.8, "max_tokens": 48, "min_pixels": MIN_PIXELS,
                       "max_pixels": MAX_PIXELS},
    }  # fmt: skip
    path = plan.files.root / "caption.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path
