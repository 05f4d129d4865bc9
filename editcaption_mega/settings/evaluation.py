"""What an evaluation run is: the benchmarks, the models, the judges, and how the models are asked."""

import re
from dataclasses import dataclass, field
from typing import Any

from .job import _at_least, _choice, _within

_HOTTEST = 10.0  # of temperatures; servers mostly take up to 2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]*")  # it becomes a folder


@dataclass
class EndpointSettings:
    """A model behind an OpenAI-compatible address; `inference.Endpoint` says more."""

    url: str = ""  # address up to and with /v1
    model: str = ""  # the server's name of the model
    api_key_env: str = ""  # environment variable with the key; "": none
    max_concurrency: int = 32
    timeout: float = 300.0  # seconds per attempt, from the connection to the last byte
    max_attempts: int = 6
    prompt_price: float = 0.0  # per million tokens
    completion_price: float = 0.0
    max_request_mib: float = 18.0  # a larger request is not sent: its row fails. Anthropic takes 32 MB, Gemini 20 MB
    max_reply_mib: float = 0.0  # a larger answer is not read; 0: 2 for chat, 12 for an editor's pictures
    extra: dict[str, Any] = field(default_factory=dict)  # more fields of the request
    cache_as: str = ""  # replies are kept under this in the place of the address, such as that of a server which moved


@dataclass
class BenchmarkSettings:
    name: str = ""
    shards: str = ""  # folder written by tools/make_shards.py
    ids: str = ""  # file with one id a line; "": all pairs of the shards
    ground_truth: str = ""  # file of tools/evaluate.py ground-truth; "": the `changes` in the shards


@dataclass
class CandidateSettings:
    """A model to be judged: one of folder, vllm, endpoint.url and instructions says where its texts come from."""

    name: str = ""  # what reports print
    folder: str = ""  # Hugging Face folder, run in process
    vllm: str = ""  # Hugging Face folder, run by an installed vLLM
    endpoint: EndpointSettings = field(default_factory=EndpointSettings)
    instructions: str = ""  # folder with BENCHMARK.jsonl files written before

    @property
    def origin(self) -> str:
        given = {"folder": self.folder, "vllm": self.vllm, "endpoint": self.endpoint.url}
        given["instructions"] = self.instructions
        found = [name for name, value in given.items() if value]
        if len(found) != 1:
            told = " and ".join(found) or "none"
            raise ValueError(
                f"model {self.name!r}: give exactly one of folder, vllm, endpoint.url, instructions; found {told}"
            )
        return found[0]


@dataclass
class JudgeSettings:
    name: str = ""
    kind: str = "model"  # model (an endpoint) | rule (synthetic pairs, from their facts)
    endpoint: EndpointSettings = field(default_factory=EndpointSettings)
    mode: str = "labels"  # labels: the judge labels, code scores | paper: the judge's own numbers, checked
    repeats: int = 1  # judgements per instruction
    # How labels are scored and judges asked; evaluation/judge.py says what each choice means
    table: str = "listing2"
    forbidden: str = "lexicon"
    rules_role: str = "system"
    show_model: bool = False
    max_tokens: int = 8192
    temperature: float = 0.0


@dataclass
class GenerationSettings:
    """The same for every model."""

    prompt: str = ""  # prompt file; "": the built-in one
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    # Of a picture as a model sees it, in process (as in training) and behind an endpoint; judges see the same
    min_pixels: int = 4 * 32 * 32
    max_pixels: int = 1280 * 32 * 32
    batch_size: int = 16  # in process: pairs at once


@dataclass
class EditorSettings(EndpointSettings):
    """An image-editing endpoint that executes instructions blindly; off while its url is empty.

    url: address up to and with /v1: {url}/images/edits is called. extra: more fields of the form."""

    max_concurrency: int = 4
    size: str = ""  # such as 1024x1024; "": the server's default
    max_pixels: int = 2048 * 2048  # of a result; a larger one fails its row
    measures: list[str] = field(default_factory=lambda: ["ssim"])  # of: ssim, clip, lpips (where installed)
    clip: str = ""  # Hugging Face folder of a CLIP model, for the measure clip


@dataclass
class EvaluationSettings:
    output: str = ""  # run folder
    seed: int = 0  # of the order in which judges see things, and of resampling
    benchmarks: list[BenchmarkSettings] = field(default_factory=list)
    models: list[CandidateSettings] = field(default_factory=list)
    judges: list[JudgeSettings] = field(default_factory=list)
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    editor: EditorSettings = field(default_factory=EditorSettings)
    human: list[str] = field(default_factory=list)  # files of human-import
    # For table 4: model size -> training (base, SFT, DPO only, SFT + DPO) -> name of a model above
    ablation: dict[str, dict[str, str]] = field(default_factory=dict)

    def validate(self) -> None:
        if not self.output:
            raise ValueError("output is empty: name the folder of the run")
        for kind, items in (("benchmarks", self.benchmarks), ("models", self.models), ("judges", self.judges)):
            if not items and kind != "judges":
                raise ValueError(f"{kind} is empty: give at least one")
            names = [item.name for item in items]
            for name in names:
                if not _NAME.fullmatch(name):
                    raise ValueError(
                        f"{kind}: a name is {name!r}, expected letters, digits, spaces and . _ + - (it names a folder)"
                    )
            if len(set(names)) != len(names):
                raise ValueError(f"{kind}: names must differ, found {', '.join(names)}")
        for benchmark in self.benchmarks:
            if not benchmark.shards:
                raise ValueError(f"benchmark {benchmark.name}: shards is empty; name a folder of shards")
        for model in self.models:
            model.origin  # noqa: B018 (raises)
            if model.endpoint.url and not model.endpoint.model:
                raise ValueError(f"model {model.name}: endpoint.model is empty; give the server's name of the model")
        for judge in self.judges:
            _choice(f"judge {judge.name}: kind", judge.kind, ("model", "rule"))
            _choice(f"judge {judge.name}: mode", judge.mode, ("labels", "paper"))
            _at_least(f"judge {judge.name}: repeats", judge.repeats, 1)
            _at_least(f"judge {judge.name}: max_tokens", judge.max_tokens, 1)
            _within(f"judge {judge.name}: temperature", judge.temperature, 0, _HOTTEST)
            if (judge.kind == "model") != bool(judge.endpoint.url):
                raise ValueError(
                    f"judge {judge.name}: kind {judge.kind} with endpoint.url={judge.endpoint.url!r}; a model needs an "
                    "endpoint, and rule has none"
                )
        known = {model.name for model in self.models}
        for size, trainings in self.ablation.items():
            for training, name in trainings.items():
                if name not in known:
                    raise ValueError(f"ablation.{size}.{training} is {name!r}, which is none of the models")
        _at_least("editor.max_pixels", self.editor.max_pixels, 1)
        generation = self.generation
        _at_least("generation.max_tokens", generation.max_tokens, 1)
        _within("generation.temperature", generation.temperature, 0, _HOTTEST)
        _at_least("generation.batch_size", generation.batch_size, 1)
        if not 0 < generation.min_pixels <= generation.max_pixels:
            raise ValueError(
                f"generation.min_pixels={generation.min_pixels} must be above 0 and at most "
                f"max_pixels={generation.max_pixels}"
            )
