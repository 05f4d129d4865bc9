"""How fast a step is and what it costs, in words that change as it goes on."""

import time
from dataclasses import dataclass, field

from editcaption_mega.inference.endpoint.messages import Reply, Usage


@dataclass
class Meter:
    """str(meter) is what a progress line begins with. Replies of an earlier run count for nothing."""

    what: str  # "captions"
    gpus: int = 0  # 0: somebody else's, or none
    made: int = 0  # lines of this run
    usage: Usage = field(default_factory=Usage)
    begin: float = field(default_factory=time.monotonic)

    def add(self, reply: Reply[object] | None = None, *, tokens: int = 0) -> None:
        """Another line; reply: what an endpoint said; tokens: what a model in process wrote."""
        if not self.made:
            self.begin = time.monotonic()  # a server takes its time to start
        self.made += 1
        if reply is not None:
            self.usage.add(reply)
        self.usage.completion_tokens += tokens

    def take(self) -> tuple[int, Usage]:
        """What was made since the last time, for the meter of another process."""
        made, self.made, usage, self.usage = self.made, 0, self.usage, Usage()
        return made, usage

    def join(self, made: int, usage: Usage) -> None:
        """What another meter has taken."""
        if not self.made:
            self.begin = time.monotonic()
        self.made += made
        self.usage.join(usage)

    def __str__(self) -> str:
        usage, parts = self.usage, [self.what]
        asked, seconds = self.made - usage.cached, time.monotonic() - self.begin
        if asked > 1 and seconds > 0:
            rate = (asked - 1) / seconds
            per_gpu = f" ({rate / self.gpus:.1f} per GPU)" if self.gpus else ""
            parts.append(f"{rate:.1f}/s{per_gpu}")
        if usage.prompt_tokens or usage.completion_tokens:
            prompt = f"{usage.prompt_tokens:,} + " if usage.prompt_tokens else ""  # in process nobody counts it
            parts.append(f"{prompt}{usage.completion_tokens:,} tokens")
        if usage.cost:
            parts.append(f"cost {usage.cost:.4g}")
        return ", ".join(parts)
