"""What an evaluation run is: the benchmarks, the models, the judges, and how the models are asked."""

import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from .checks import SettingsError, at_least, choices, within
from .pictures import PixelLimits

HOTTEST = 10.0  # of temperatures; servers mostly take up to 2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]*")  # it becomes a folder

# model: an endpoint | rule: synthetic pairs, from their facts. Those without a model: evaluation/judge/code_judges.py
JudgeKind = Literal["model", "rule"]
JudgeMode = Literal["labels", "paper"]  # the judge labels and code scores, or the judge's own numbers count, checked
CompletenessTable = Literal["listing2", "listing2_any_hit", "table8"]  # which numbers the rubric of completeness has
# Whose list of forbidden terms: the lexicon's (the same for every judge), the judge's, both or what they share.
TermSource = Literal["lexicon", "judge", "union", "intersection"]
RulesRole = Literal["system", "user"]  # who speaks the rules of a judge's prompt


@dataclass
class EndpointSettings:
    """A model behind an OpenAI-compatible address: where it is, its limits and prices. `inference` checks them."""

    url: str = ""  # base address up to and with /v1: requests go to {url}/chat/completions
    model: str = ""  # the server's name for the model
    api_key_env: str = ""  # name of the environment variable that holds the key; "": no key
    max_concurrency: int = 32  # requests in flight, at most
    timeout: float = 300.0  # seconds per attempt, from the connection to the last byte
    max_attempts: int = 6  # for faults that may pass
    prompt_price: float = 0.0  # per million tokens, in any currency
    completion_price: float = 0.0  # the same for what the model writes
    max_request_mib: float = 18.0  # a larger request is not sent: its row fails. Anthropic takes 32 MB, Gemini 20 MB
    max_reply_mib: float = 0.0  # a larger answer is not read; 0: 2 for chat, 12 for an editor's pictures
    # More fields of the request, part of the cache key; null takes a field out ({"max_tokens": None}).
    extra: dict[str, Any] = field(default_factory=dict)
    # What replies are kept under in the place of the address: that of a server which moved, or a mark of the weights
    # that an address serves today ("step 2000"). "": the address.
    cache_as: str = ""


@dataclass
class BenchmarkSettings:
    """Pairs that models are compared on."""

    name: str = ""  # what reports print
    shards: str = ""  # folder written by editcaption shards
    ids: str = ""  # file with one id a line; "": all pairs of the shards
    ground_truth: str = ""  # file of editcaption evaluate ground-truth; "": the `changes` in the shards


@dataclass
class CandidateSettings:
    """A model to be judged: one of folder, vllm, endpoint.url and instructions says where its texts come from."""

    name: str = ""  # what reports print
    folder: str = ""  # Hugging Face folder or PEFT folder, run in process
    vllm: str = ""  # the same, run by an installed vLLM
    endpoint: EndpointSettings = field(default_factory=EndpointSettings)
    instructions: str = ""  # folder with BENCHMARK.jsonl files written before

    @property
    def origin(self) -> str:
        """Which of the four says where its texts come from. Raises SettingsError for none and for several."""
        given = {"folder": self.folder, "vllm": self.vllm, "endpoint": self.endpoint.url}
        given["instructions"] = self.instructions
        found = [name for name, value in given.items() if value]
        if len(found) != 1:
            told = " and ".join(found) or "none"
            raise SettingsError(
                f"model {self.name!r}: give exactly one of folder, vllm, endpoint.url, instructions; found {told}"
            )
        return found[0]


@dataclass
class JudgeSettings:
    """Who judges, how often, how it is asked, and how its labels are scored; all but the name is a model's alone."""

    name: str = ""  # what reports print
    kind: JudgeKind = "model"  # a model behind an endpoint, or the rules of the synthetic world
    endpoint: EndpointSettings = field(default_factory=EndpointSettings)
    mode: JudgeMode = "labels"  # labels: the judge labels and code scores; paper: the judge's own numbers, checked
    repeats: int = 1  # judgements per instruction
    table: CompletenessTable = "listing2"  # evaluation/rubric/scores.py has them
    forbidden: TermSource = "lexicon"  # whose list of forbidden terms sets the ceiling of clarity
    rules_role: RulesRole = "system"  # who speaks the rules
    show_model: bool = False  # the paper's prompts show the model's name; it can sway a judge
    max_tokens: int = 8192  # of a reply, thinking included
    temperature: float = 0.0  # 0: the likeliest words
    top_p: float = 1.0  # words of so much probability are drawn from

    def validate(self) -> None:
        """Whatever the judge is asked about. Raises SettingsError."""
        where = f"judge {self.name}"
        choices(f"{where}: ", self)
        at_least(f"{where}: repeats", self.repeats, 1)
        at_least(f"{where}: max_tokens", self.max_tokens, 1)
        within(f"{where}: temperature", self.temperature, 0, HOTTEST)
        within(f"{where}: top_p", self.top_p, 0, 1)
        if (self.kind == "model") != bool(self.endpoint.url):
            raise SettingsError(
                f"{where}: kind {self.kind} with endpoint.url={self.endpoint.url!r}; a model needs an endpoint, and "
                f"{'rule' if self.kind == 'model' else self.kind} has none"
            )
        if self.kind != "model":
            default = JudgeSettings(self.name, self.kind)
            changed = [f.name for f in fields(self) if getattr(self, f.name) != getattr(default, f.name)]
            if changed:
                raise SettingsError(
                    f"{where}: {', '.join(changed)} is for judges of kind model alone, and kind {self.kind} asks no "
                    "model: leave it out"
                )


@dataclass
class GenerationSettings(PixelLimits):
    """The same for every model. The pixel limits are of pictures in process (as in training) and behind an endpoint;
    judges see the same."""

    prompt: str = ""  # prompt file; "": the built-in one
    max_tokens: int = 256  # of a text
    temperature: float = 0.0  # 0: the likeliest words
    seed: int = 0  # of what is drawn
    batch_size: int = 16  # in process: pairs at once


@dataclass
class EditorSettings(EndpointSettings):
    """An image-editing endpoint that executes instructions blindly; off while its url is empty.

    url: address up to and with /v1: {url}/images/edits is called. extra: more fields of the form."""

    max_concurrency: int = 4  # requests in flight, at most
    size: str = ""  # such as 1024x1024; "": the server's default
    max_pixels: int = 2048 * 2048  # of a result; a larger one fails its row
    measures: list[str] = field(default_factory=lambda: ["ssim"])  # of evaluation/execution/measures.py: MEASURES
    clip: str = ""  # Hugging Face folder of a CLIP model, for the measure clip


@dataclass
class ReportSettings:
    """What the report says and shows beside the scores."""

    title: str = "Evaluation report"  # over the page
    introduction: str = ""  # a paragraph under the title
    notes: dict[str, str] = field(default_factory=dict)  # more lines of "how this was made"
    training: dict[str, str] = field(default_factory=dict)  # name -> folder of a training run, whose curves are drawn
    # Two models: which pairs the second mends and which it breaks
    before: str = ""
    after: str = ""  # the other one


@dataclass
class EvaluationSettings:
    """An evaluation run, whole."""

    output: str = ""  # run folder
    limit: int = 0  # of each benchmark the first so many pairs alone, with results of their own; 0: all
    seed: int = 0  # of the order in which judges see things, and of resampling
    benchmarks: list[BenchmarkSettings] = field(default_factory=list)
    models: list[CandidateSettings] = field(default_factory=list)
    judges: list[JudgeSettings] = field(default_factory=list)
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    editor: EditorSettings = field(default_factory=EditorSettings)
    human: list[str] = field(default_factory=list)  # files of human-import
    # For table 4: model size -> training (base, SFT, DPO only, SFT + DPO) -> name of a model above
    ablation: dict[str, dict[str, str]] = field(default_factory=dict)
    report: ReportSettings = field(default_factory=ReportSettings)

    def validate(self) -> None:
        if not self.output:
            raise SettingsError("output is empty: name the folder of the run")
        at_least("limit", self.limit, 0)
        for kind, items in (("benchmarks", self.benchmarks), ("models", self.models), ("judges", self.judges)):
            if not items and kind != "judges":
                raise SettingsError(f"{kind} is empty: give at least one")
            names = [item.name for item in items]
            for name in names:
                if not _NAME.fullmatch(name):
                    raise SettingsError(
                        f"{kind}: a name is {name!r}, expected letters, digits, spaces and . _ + - (it names a folder)"
                    )
            if len(set(names)) != len(names):
                raise SettingsError(f"{kind}: names must differ, found {', '.join(names)}")
        for benchmark in self.benchmarks:
            if not benchmark.shards:
                raise SettingsError(f"benchmark {benchmark.name}: shards is empty; name a folder of shards")
        for model in self.models:
            model.origin  # noqa: B018 (raises)
            if model.endpoint.url and not model.endpoint.model:
                raise SettingsError(f"model {model.name}: endpoint.model is empty; give the server's name of the model")
        for judge in self.judges:
            judge.validate()
        known = {model.name for model in self.models}
        for size, trainings in self.ablation.items():
            for training, name in trainings.items():
                if name not in known:
                    raise SettingsError(f"ablation.{size}.{training} is {name!r}, which is none of the models")
        for name in (self.report.before, self.report.after):
            if name not in known and (self.report.before or self.report.after):
                raise SettingsError(
                    f"report.before and report.after name two of the models, or none; found {self.report.before!r} and "
                    f"{self.report.after!r}"
                )
        at_least("editor.max_pixels", self.editor.max_pixels, 1)
        generation = self.generation
        at_least("generation.max_tokens", generation.max_tokens, 1)
        within("generation.temperature", generation.temperature, 0, HOTTEST)
        at_least("generation.batch_size", generation.batch_size, 1)
        generation.check_pixels("generation")
