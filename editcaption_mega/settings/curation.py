"""Steps of data construction that ask a model: where it runs, what it is asked, where its words go."""

from dataclasses import dataclass, field
from typing import Literal

from .checks import SettingsError, at_least, choices, within
from .evaluation import HOTTEST, EndpointSettings, GenerationSettings
from .pictures import PixelLimits

ServedBy = Literal["", "vllm", "sglang", "transformers", "custom"]


@dataclass
class ServerSettings:
    """A server that the job starts itself, on its own machine; off while `program` is empty."""

    program: ServedBy = ""  # "": no server; custom: `command`
    model: str = ""  # Hugging Face folder, PEFT folder (vllm), or a name that the program knows
    arguments: str = ""  # more of the program's own, as in a shell: "--max-model-len 16384"
    # custom: the whole command, as in a shell; {port} and, where it is wanted, {model} and {gpus} are replaced
    command: str = ""
    health: str = ""  # path that answers 200 when the model can be asked; "": the program's own (custom: /v1/models)
    start_seconds: float = 3600.0  # until it must be healthy: large weights take their time
    restarts: int = 5  # times that one that died is started again, in all of a run

    def validate(self) -> None:
        choices("server.", self)
        if not self.program:
            if self.model or self.command or self.arguments:
                raise SettingsError("server.program is empty: name vllm, sglang, transformers or custom, or no server")
            return
        if not self.model:
            raise SettingsError("server.model is empty: name the folder of the model that is served")
        if (self.program == "custom") != bool(self.command):
            raise SettingsError(
                f"server.program={self.program} with server.command={self.command!r}: a command is for custom, which "
                "needs one"
            )
        if self.program == "custom" and "{port}" not in self.command:
            raise SettingsError("server.command holds no {port}: the job chooses a free one and writes it there")
        if self.health and not self.health.startswith("/"):
            raise SettingsError(f"server.health={self.health!r} must be a path such as /health")
        within("server.start_seconds", self.start_seconds, 1, 7 * 86_400)
        at_least("server.restarts", self.restarts, 0)


@dataclass
class _Asking:
    """What captions and scores share."""

    shards: list[str] = field(default_factory=list)  # folders written by editcaption shards, as one set
    output: str = ""  # file of columns to write, NAME.jsonl; what is made on the way is beside it in NAME.made
    # How the model is asked, wherever it is served; url and model are for one that is served elsewhere.
    endpoint: EndpointSettings = field(default_factory=EndpointSettings)
    server: ServerSettings = field(default_factory=ServerSettings)
    # Processes that ask, read pictures and keep replies, each with its share of the pairs and of max_concurrency: one
    # asks for about as much as one core can (docs/curation.md)
    workers: int = 1

    def _check(self, also: dict[str, str]) -> str:
        """-> which of `also`, endpoint.url and server.program says who is asked. Raises SettingsError."""
        if not self.shards:
            raise SettingsError("shards is empty: name the folders of shards")
        if not self.output.endswith(".jsonl"):
            raise SettingsError(f"output={self.output!r} must be a file NAME.jsonl, which will hold a line per pair")
        self.server.validate()
        given = {**also, "endpoint.url": self.endpoint.url, "server.program": self.server.program}
        named = [name for name, value in given.items() if value]
        if len(named) != 1:
            raise SettingsError(f"give exactly one of {', '.join(given)}; found {' and '.join(named) or 'none'}")
        if named == ["endpoint.url"] and not self.endpoint.model:
            raise SettingsError("endpoint.model is empty; give the server's name of the model")
        at_least("workers", self.workers, 1)
        if self.workers > self.endpoint.max_concurrency:
            raise SettingsError(
                f"workers={self.workers} share endpoint.max_concurrency={self.endpoint.max_concurrency} requests in "
                "flight: take fewer workers, or allow more requests"
            )
        if self.workers > 1 and named[0] in also:
            raise SettingsError(f"workers={self.workers} ask a model over HTTP: with {named[0]} there is none to share")
        return named[0]


@dataclass
class CaptionSettings(_Asking):
    """Instructions for every pair of some shards, from a model."""

    folder: str = ""  # Hugging Face folder or PEFT folder, run in this process
    samples: int = 1  # instructions per pair
    # File of captions that the model is shown, to correct each; generation.prompt is then one that shows a draft
    drafts: str = ""
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    # New folder of shards with the instructions (the first sample that has one); "": the file of columns alone
    shards_output: str = ""

    def validate(self) -> None:
        self._check({"folder": self.folder})
        at_least("samples", self.samples, 1)
        generation = self.generation
        at_least("generation.max_tokens", generation.max_tokens, 1)
        within("generation.temperature", generation.temperature, 0, HOTTEST)
        at_least("generation.batch_size", generation.batch_size, 1)
        generation.check_pixels("generation")
        if self.samples > 1 and generation.temperature == 0 and not self.drafts:
            raise SettingsError(
                f"samples={self.samples} at generation.temperature=0 would be one text {self.samples} times: set a "
                "temperature"
            )


@dataclass
class ScoreSettings(_Asking, PixelLimits):
    """Scores of instructions by a model, through a template of its prompt."""

    captions: str = ""  # file of `curate.py caption`; "": the instructions in the shards
    template: str = "editscore"  # one of curation/scores/templates, or a file
    passes: int = 1  # replies per instruction
    max_tokens: int = 1024  # of a reply, thinking included
    temperature: float = 0.0  # 0: the likeliest words
    top_p: float = 1.0  # words of so much probability are drawn from
    seed: int = 0  # of what is drawn
    cache: str = ""  # folder of replies, which files of other instructions may share; "": beside the output

    def validate(self) -> None:
        self._check({})
        at_least("passes", self.passes, 1)
        at_least("max_tokens", self.max_tokens, 1)
        within("temperature", self.temperature, 0, HOTTEST)
        within("top_p", self.top_p, 0, 1)
        self.check_pixels("pictures")
        if self.passes > 1 and self.temperature == 0:
            raise SettingsError(
                f"passes={self.passes} at temperature=0 would be one reply {self.passes} times: set a temperature"
            )
