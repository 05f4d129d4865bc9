"""Arguments and settings that cannot work end every command with 2 and a sentence, before any work: what a second start
with the same words would not mend. 1 is for work that failed."""

import importlib.util
import json
import os
import shutil
import subprocess
from dataclasses import replace

import pytest
import yaml

from editcaption_mega import cli, train
from editcaption_mega.conversion import AdapterChoice
from editcaption_mega.conversion.adapter_values import new_values
from editcaption_mega.conversion.convert import hf_to_megatron
from editcaption_mega.conversion.peft_folder import write_peft_folder
from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.human.tasks import Key
from editcaption_mega.model import Architecture
from editcaption_mega.settings import AdapterSettings
from tests.helpers import ROOT, small_job

TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A model, shards, a folder and a file that hold something, and settings of an evaluation and of a job."""
    root = tmp_path_factory.mktemp("arguments")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards", count=2)
    (root / "used").mkdir()
    (root / "used/file").write_text("something")
    small_job.write_folder(root / "other", replace(small_job.SIZE, hidden_size=32))
    for base in ("model", "other"):
        choice = AdapterChoice.of(Architecture.from_folder(root / base), AdapterSettings(rank=4))
        values = {rule.name: new_values(rule, 1) for rule in choice.rules.values()}
        write_peft_folder(root / f"{base}-peft", choice, values, base, "0123456789abcdef")
    shutil.copytree(root / "model", root / "cut")
    os.truncate(root / "cut/model.safetensors", 1000)
    hf_to_megatron(root / "model", root / "store")
    (root / "texts").mkdir()
    rows = [{"id": pair_id, "instruction": "Move it."} for pair_id in Benchmark("set", root / "shards").ids]
    (root / "texts/set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Key("00" * 32).write(root / "key")
    evaluation = {
        "output": str(root / "run"),
        "benchmarks": [{"name": "set", "shards": str(root / "shards")}],
        "models": [{"name": "m", "instructions": str(root / "texts")}],
        "judges": [{"name": "rules", "kind": "rule"}],
    }
    (root / "eval.yaml").write_text(yaml.safe_dump(evaluation))
    job = {
        "model": {"folder": str(root / "model")},
        "data": {"shards": [str(root / "shards")], "sequence_length": 512, "min_pixels": 1024},
        "training": {"output": str(root / "job"), "steps": 1, "global_batch_size": 2},
    }
    (root / "job.yaml").write_text(yaml.safe_dump(job))
    return root


def main_of(command: str):
    """The `main(argv)` of a tool, or of a training job."""
    if command in ("sft", "dpo"):
        return getattr(train, f"_{command}")
    spec = importlib.util.spec_from_file_location(f"exit_codes_{command}", ROOT / "tools" / f"{command}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


MAKE = "make_shards --format jsonl --input {root}/pairs.jsonl --output {root}/new "
HF = "hf_to_megatron --hf {root}/model --output {root}/new "
EXPORT = "megatron_to_hf --checkpoint {root}/nowhere --output {root}/new "
LOG_PROBS = "log_probs --checkpoint {root}/model --shards {root}/shards --output {root}/new.jsonl "
REJECTED = "curate sample-rejected --model {root}/model --shards {root}/shards --output {root}/new "
EVALUATE = "evaluate {command} {root}/eval.yaml "
TASKS = EVALUATE.replace("{command}", "human-export") + "--benchmark set --key {root}/new.key --folder {root}/new "
VERDICTS = EVALUATE.replace("{command}", "human-import") + "--benchmark set --output {root}/new --key {root}/nowhere "
TRUTH = EVALUATE.replace("{command}", "ground-truth") + "--benchmark set --proposals {root}/nowhere "
LORA = "sft {root}/job.yaml training.precision=fp32 model.adapters.rank=4 "
PLAN = "plan {root}/job.yaml --gpus 2 "
FILTER = "curate filter --shards {root}/shards --rules a>1 --output {root}/new "
OUT = "--output {root}/new.jsonl "
BEST_OF = "curate best-of --shards {root}/shards --captions {root}/nowhere.jsonl --scores {root}/nowhere.jsonl " + OUT
JUDGE = EVALUATE.replace("{command}", "check-judge")

# Options stand last, so a later one replaces an earlier one of the same name.
CASES = [
    (MAKE, "pairs.jsonl"),
    (MAKE + "--input {root}/nowhere", "nowhere"),
    (MAKE + "--format synthetic --input default --output {root}/used", "not empty"),
    (MAKE + "--format synthetic --input default --output {root}/used/file", "a file"),
    (MAKE + "--format synthetic --input {root}/nowhere.yaml", "nowhere.yaml"),
    (MAKE + "--format nothing", "invalid choice"),
    (MAKE + "--max-pixels 0", "--max-pixels"),
    ("validate_shards {root}/nowhere", "nowhere"),
    ("duplicates {root}/nowhere", "nowhere"),
    ("duplicates {root}/shards --evaluation {root}/shards", "named twice"),
    ("duplicates {root}/shards --page {root}/nowhere/page.html", "nowhere"),
    ("duplicates {root}/shards --embeddings {root}/nowhere", "--embeddings"),
    ("duplicates {root}/shards --similarity 2", "--similarity"),
    ("duplicates {root}/shards --similarity 0.5", "--similarity has a meaning with --embeddings only"),
    ("duplicates {root}/shards --limit 5", "--limit has a meaning with --page only"),
    ("duplicates {root}/shards --allow-evaluation", "--allow-evaluation has a meaning with --evaluation only"),
    ("validate_shards {root}/shards --pairs 5", "--pairs has a meaning with --contact-sheet only"),
    ("validate_shards {root}/shards --seed 5", "--seed has a meaning with --contact-sheet only"),
    ("validate_shards {root}/used/file", "used/file"),
    ("validate_shards {root}/nowhere --rebuild-index", "nowhere"),
    ("validate_shards {root}/shards --contact-sheet {root}/nowhere/page.html", "nowhere"),
    ("validate_shards {root}/shards --tokenizer {root}/nowhere", "nowhere"),
    ("verify_checkpoint {root}/nowhere", "nowhere"),
    ("verify_checkpoint {root}/used", "neither a checkpoint"),
    (HF + "--hf {root}/nowhere", "nowhere"),
    (HF + "--hf {root}/used", "config.json"),
    (HF + "--output {root}/used", "already holds something"),
    (HF + "--tp 7", "does not divide"),
    (HF + "--tp 0", "tensor_model_parallel_size"),
    (EXPORT, "neither a checkpoint"),
    (EXPORT + "--checkpoint {root}/used", "neither a checkpoint"),
    (EXPORT + "--output {root}/used", "already holds something"),
    (EXPORT + "--max-file-gib 0", "--max-file-gib"),
    (EXPORT + "--max-file-gib -1", "--max-file-gib"),
    (EXPORT + "--max-file-gib nan", "--max-file-gib"),
    (EXPORT + "--max-file-gib inf", "--max-file-gib"),
    (EXPORT + "--adapter", "neither a checkpoint"),
    (EXPORT + "--adapter --verify", "--verify"),
    (EXPORT + "--adapter --checkpoint {root}/model", "neither a checkpoint"),
    (EXPORT + "--adapter --checkpoint {root}/model-peft --output {root}/used", "already holds something"),
    (EXPORT + "--adapter --max-file-gib 1", "--adapter writes one file, which --max-file-gib does not divide"),
    (EXPORT + "--adapter --workers 1", "--adapter writes one small file, which --workers do not share"),
    (EXPORT + "--adapter --checkpoint {root}/model-peft", "names model, which is no folder here: write the folder"),
    (EXPORT + "--checkpoint {root}/model-peft", "as base_model_name_or_path, or name it with --base"),
    ("curate measure --shards {root}/shards --output {root}/new.jsonl --batch-size 16", "--batch-size has a meaning"),
    ("curate measure --shards {root}/shards --output {root}/new.jsonl --clip {root} --workers 2", "leave one of them"),
    (EXPORT + "--checkpoint {root}/model-peft --base {root}/nowhere", "nowhere"),
    (EXPORT + "--checkpoint {root}/model-peft --base {root}/used", "neither a checkpoint"),
    (EXPORT + "--checkpoint {root}/model-peft --base {root}/model", "trained on the weights of model (0123456789ab)"),
    (EXPORT + "--checkpoint {root}/other-peft --base {root}/model", "it is of another model"),
    (LOG_PROBS + "--checkpoint {root}/nowhere", "nowhere"),
    (LOG_PROBS + "--shards {root}/nowhere", "nowhere"),
    (LOG_PROBS + "--output {root}/used/file", "exists already"),
    (LOG_PROBS + "--prompt {root}/nowhere", "nowhere"),
    (LOG_PROBS + "--tp 7", "does not divide"),
    (LOG_PROBS + "--tp 2", "ranks"),
    (LOG_PROBS + "--cp 2", "context"),
    (LOG_PROBS + "--sequence-length 0", "sequence_length"),
    (LOG_PROBS + "--min-pixels 9 --max-pixels 4", "pixels"),
    (REJECTED + "--model {root}/nowhere", "nowhere"),
    (REJECTED + "--model {root}/used", "config.json"),
    (REJECTED + "--shards {root}/nowhere", "nowhere"),
    (REJECTED + "--output {root}/used", "not empty"),
    (REJECTED + "--prompt {root}/nowhere", "nowhere"),
    (REJECTED + "--samples 0", "samples"),
    (REJECTED + "--temperature -1", "temperature"),
    (REJECTED + "--min-pixels 9 --max-pixels 4", "pixels"),
    (EVALUATE.format(command="run", root="{root}/nowhere"), "nowhere"),
    (EVALUATE.replace("{command}", "run") + "no.such=1", "no.such"),
    (EVALUATE.replace("{command}", "run") + "--limit -1", "limit"),
    (EVALUATE.replace("{command}", "generate") + "--part 4/4", "--part"),
    (EVALUATE.replace("{command}", "generate") + "generation.prompt={root}/nowhere", "nowhere"),
    (JUDGE + "--judge nobody", "nobody"),
    (JUDGE + "--judge rules --pairs 0", "--pairs"),
    (TASKS + "--benchmark other", "other"),
    (TASKS + "--pairs 0", "--pairs"),
    (TASKS + "--annotators 0 --label-studio http://127.0.0.1:9", "--annotators"),
    (TASKS + "--key {root}/new/key", "would lie in"),
    (TASKS + "--document-root {root}/nowhere --label-studio http://127.0.0.1:9", "--document-root"),
    (VERDICTS, "--answers"),
    (VERDICTS + "--answers {root}/used/file", "nowhere"),
    (VERDICTS + "--answers {root}/used/file --key {root}/used/file", "is not the key of an export"),
    (VERDICTS + "--key {root}/key --answers {root}/nothing", "nothing"),
    (TRUTH + "--step freeze", "--output"),
    (TRUTH + "--step freeze --output {root}/new", "nowhere"),
    (TRUTH + "--step push", "--label-studio"),
    (TRUTH + "--step propose", "--merge"),
    ("plan {root}/nowhere.yaml --gpus 8", "nowhere.yaml"),
    ("plan {root}/job.yaml no.such=1 --gpus 8", "no.such"),
    ("plan {root}/job.yaml --gpus 8 --hardware {root}/nowhere", "nowhere"),
    ("plan {root}/job.yaml data.sequence_length=4096 parallel.tensor_model_parallel_size=7 --gpus 7", "not divide"),
    ("plan {root} --gpus 8", "a folder, expected a file"),
    ("plan {root}/used/file/x.yaml --gpus 8", "Not a directory"),
    ("plan {root}/job.yaml --gpus 0", "--gpus"),
    ("plan {root}/job.yaml --gpus eight", "'eight' is not a whole number: give one from 1 on"),
    (PLAN + "--gpu-memory 0", "--gpu-memory: '0' is no number from 0.01 to 10000"),
    (PLAN + "--gpu-memory=-1", "--gpu-memory"),
    (PLAN + "--gpu-memory nan", "--gpu-memory"),
    (PLAN + "--gpu-memory 85e9", "--gpu-memory"),
    (PLAN + "--gpu-memory 80GB", "'80GB' is no number"),
    (PLAN + "--imbalance 0.5", "--imbalance: '0.5' is no number from 1"),
    (PLAN + "--imbalance nan", "--imbalance"),
    (PLAN + "--imbalance 1.5", "--imbalance 1.5 is more than the 1 ranks that share experts"),
    (PLAN + "--top 5", "--top is of --mode search"),
    (PLAN + "--json {root}/used", "used is a folder: name a file"),
    (PLAN + "training.steps=2", "key=value is written right behind the file of settings"),
    (PLAN + "--mode fit --json {root}/nowhere/plan.json", "nowhere is no folder: make it"),
    (PLAN + "--json {root}/used/file/plan.json", "used/file is no folder"),
    (PLAN + "--picture {root}/nowhere/plan.png", "nowhere is no folder: make it"),
    (PLAN + "--picture {root}/plan.txt", "plan.txt is of no known kind: name a file that ends with .png"),
    (PLAN + "--picture {root}/plan.png --json {root}/plan.png", "name two files"),
    ("browse {root}/nowhere --output {root}/page.html", "no such folder"),
    ("browse {root} --output {root}/used", "is a folder: name a file"),
    ("plan {root}/job.yaml model.folder={root}/nowhere --gpus 8", "nowhere"),
    ("make_small_model expert=0 --output {root}/new", "did you mean 'experts'"),
    ("make_small_model --output {root}/used", "is there already"),
    ("make_small_model --output {root}/new --prompt {root}/nowhere", "nowhere"),
    ("bench kernels --rows 0", "--rows"),
    (LOG_PROBS + "--output {root}/used/file/new/x.jsonl", "used/file is a file, so there can be no"),
    ("bench nothing", "invalid choice"),
    ("bench conversion --folder {root}/nowhere", "nowhere does not exist: make it first, or name"),
    ("bench conversion --folder {root}/used/file", "used/file is a file: make it first, or name"),
    ("bench scores --model {root}/nowhere --shards {root}", "nowhere does not exist: name a folder"),
    ("bench conversion --gigabytes nan", "--gigabytes must be above 0"),
    ("megatron_to_hf --checkpoint {root}/nowhere --output {root}/new --max-file-gib 1e-12", "--max-file-gib"),
    ("bench dpo-rows --output {root}/used/file --prompt 64", "--output"),
    ("gpu_check --only nothing --output {root}/new", "--only"),
    ("gpu_check --seconds -1 --output {root}/new", "--seconds"),
    ("gpu_check --output {root}/used/file", "--output"),
    ("demo --steps 0", "--steps"),
    ("demo --output {root}/used/file", "--output"),
    ("curation_demo --samples 1 --output {root}/new", "--samples is 1"),
    ("curation_demo --error-rate 2 --output {root}/new", "--error-rate"),
    ("curation_demo --real {root}/nowhere --output {root}/new", "nowhere"),
    ("curation_demo --model {root}/nowhere --output {root}/new", "nowhere"),
    ("sft {root}/nowhere.yaml", "nowhere.yaml"),
    ("sft {root}/job.yaml parallel.tensor_model_parallel_size=7", "does not divide"),
    ("sft {root}/job.yaml model.backend=nothing", "backend"),
    ("sft {root}/job.yaml --gpus 2", "--gpus has a meaning with --check and --dry-run only: a job has as many ranks"),
    ("sft {root}/job.yaml --gpu-memory 80 --dry-run", "--gpu-memory has a meaning with --check only"),
    ("sft {root}/job.yaml --runs=", "the file of runs has no name"),
    ("sft {root}/job.yaml --runs {root}/job.yaml", "holds the settings of a job (data, model, training), and no runs"),
    (LORA + "model.adapters.start={root}/nowhere", "nowhere: no such folder; expected a run, a checkpoint or"),
    ("sft {root}/job.yaml model.flash_attention=3", "needs a Hopper GPU"),
    ("sft {root}/job.yaml data.shards=[{root}/used]", "index.json"),
    (LORA + "model.adapters.modules=[mlp.no_proj]", "'mlp.no_proj' matches nothing that can have an adapter"),
    (LORA + "model.adapters.modules=[visual.*] optimizer.vision=0", "optimizer.vision=0 freezes"),
    (LORA + "model.adapters.rank=64", "model.adapters.rank=64 is more than the 32"),
    (LORA + "model.adapters.rank=2", "grouped products need a multiple of 4"),
    (LORA + "model.adapters.dora=true", "model.adapters.dora=True is not possible on experts"),
    (LORA + "model.adapters.start={root}/model", "neither a checkpoint"),
    (LORA + "model.adapters.start={root}/model-peft", "trained on the weights of model (0123456789ab)"),
    (LORA + "model.adapters.rank=0 model.adapters.alpha=8", "rank above 0"),
    ("dpo {root}/job.yaml reference.mode=adapters_off", "needs adapters: set model.adapters.rank above 0"),
    (LORA.replace("sft", "dpo") + "model.adapters.start={root}/model-peft", "is no reference when adapters are off"),
    (
        LORA.replace("sft", "dpo") + "model.adapters.start={root}/model-peft reference.mode=stored",
        "reference.mode=stored takes the weights without them",
    ),
    (LORA + "--runs {root}/nowhere.yaml", "nowhere.yaml does not exist: name a YAML file of runs"),
    ("sft {root}/job.yaml model.folder={root}/model-peft", "begin with them by model.adapters.start="),
    ("dpo {root}/job.yaml model.folder={root}/model-peft", "add its adapters to their weights first"),
    (
        "dpo sft_qwen3_vl_2b model.folder={root}/model data.shards=[{root}/shards] training.output={root}/new",
        "so it is an SFT configuration: train-sft takes it",
    ),
    ("sft {root}/job.yaml preference.beta=0.1", "of a DPO configuration, which editcaption train-dpo"),
    ("sft {root}/job.yaml --check --gpus 3 parallel.tensor_model_parallel_size=2", "3 ranks are not a multiple of"),
    ("curate export --format jsonl --shards {root}/nowhere --output {root}/new", "nowhere"),
    ("curate export --format jsonl --shards {root}/used --output {root}/new", "index.json"),
    ("curate export --format jsonl --shards {root}/shards --survival {root}/nowhere --output {root}/new", "nowhere"),
    ("curate mirror --shards {root}/nowhere --output {root}/new", "nowhere"),
    ("curate measure --shards {root}/nowhere " + OUT, "nowhere"),
    (
        "curate measure --shards {root}/shards --clip {root}/nowhere " + OUT,
        "nowhere: no such folder: expected",
    ),
    ("curate measure --shards {root}/shards --clip {root}/used " + OUT, "found no config.json"),
    ("curate lint --shards {root}/nowhere " + OUT, "nowhere"),
    ("curate lint --jsonl {root}/nowhere " + OUT, "nowhere"),
    (
        "curate lint --shards {root}/shards --mirrored {root}/nowhere " + OUT,
        "does not exist: expected a file of",
    ),
    ("curate lint --shards {root}/shards --instructions {root}/nowhere " + OUT, "does not exist: expected a file of"),
    (FILTER + "--shards {root}/nowhere", "nowhere"),
    (FILTER + "--columns {root}/nowhere", "nowhere does not exist: expected a file of columns"),
    (FILTER + "--columns {root}/used/file", "is no file of columns"),
    (FILTER + "--rules a~1", "a~1"),
    (BEST_OF, "nowhere.jsonl does not exist"),
    (BEST_OF.replace("/shards", "/nowhere"), "nowhere"),
    ("curate alternatives --shards {root}/shards --captions {root}/nowhere " + OUT, "nowhere does not exist"),
    ("curate score agreement --shards {root}/shards --captions {root}/nowhere " + OUT, "nowhere does not exist"),
    ("curate score log-probs --shards {root}/nowhere --given {root}/nowhere " + OUT, "nowhere"),
    ("curate refine-export --shards {root}/nowhere --folder {root}/new", "nowhere"),
    ("validate_shards {root}/used", "index.json"),
    (HF + "--hf {root}/cut", "cut/model.safetensors"),
    (HF + "--hf {root}/store", "is a checkpoint or run of this package, expected a Hugging Face folder"),
    ("bench lora --gigabytes 0", "--gigabytes must be above 0"),
    ("dpo {root}/job.yaml preference.loss=nothing", "preference.loss"),
    ("dpo {root}/job.yaml reference.checkpoint={root}/nowhere", "nowhere"),
]


def test_every_tool_is_asked():
    asked = {case.split()[0] for case, _ in CASES}
    assert asked == {*TOOLS, "sft", "dpo"}, "each tool, also a new one, has cases above"


@pytest.mark.parametrize("command, words", CASES, ids=[case for case, _ in CASES])
def test_what_cannot_work_ends_with_2_before_any_work(root, capsys, command, words):
    before = sorted(root.rglob("*"))
    name, *argv = command.format(root=root).split()
    try:
        code = cli.exit_code(main_of(name), argv)
    except SystemExit as end:  # argparse's own
        code = end.code
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and "error: " in last and words in last and "unexpected" not in last, last
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("script", ["pretrain_sft.sh", "train_dpo.sh", "batch_eval.sh", "caption.sh"])
def test_a_launch_script_without_arguments_says_how_it_is_used(script):
    environment = dict(os.environ, PYTHONPATH=str(ROOT), NPROC_PER_NODE="1")
    done = subprocess.run(["bash", ROOT / "launch" / script], env=environment, capture_output=True, text=True)
    *usage, last = done.stderr.strip().splitlines()
    assert done.returncode == 2 and usage[0].startswith(f"usage: {script}") and "key=value" in " ".join(usage)
    assert last.startswith(f"{script}: error: give a file of settings, such as configs/")
    assert (ROOT / last.split("such as ")[1]).is_file()
