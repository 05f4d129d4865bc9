"""The settings of a job's checkpoints."""

import os
from dataclasses import dataclass

from .checks import SettingsError, at_least


@dataclass
class CheckpointSettings:
    """When checkpoints are written and how, which of them stay, and how much is believed of one."""

    every: int = 500  # steps between checkpoints; one is always written at the end
    keep: int = 2  # newest checkpoints kept; 0 keeps all
    keep_every: int = 0  # those of every so many steps stay beside the newest; 0: none
    keep_best: bool = False  # the best by evaluation.metric stays beside the newest, too
    # Written beside the next steps from a copy in the host's memory; false: training stands still meanwhile, and a rank
    # holds 4 GiB of it at once.
    asynchronous: bool = True
    retries: int = 3  # more tries to write one, for a disk that is full or away for a while
    retry_seconds: float = 10.0  # before the first of them; before each later one twice as long
    resume: bool = True  # go on from the newest complete checkpoint in output, if any
    verify: bool = True  # compare every byte with its checksum before a checkpoint is used
    # On each node's own disk: what its ranks wrote of the newest checkpoint lies there, too, for a start on that node.
    local_folder: str | None = None
    fallback: bool = False  # when the newest checkpoint is damaged, go on from the newest sound one before it

    def validate(self) -> None:
        at_least("checkpoint.every", self.every, 1)
        at_least("checkpoint.keep", self.keep, 0)
        at_least("checkpoint.keep_every", self.keep_every, 0)
        if self.keep_every % self.every:
            raise SettingsError(
                f"checkpoint.keep_every={self.keep_every} is no multiple of checkpoint.every={self.every}, so there "
                "would be nothing to keep: make it one"
            )
        if self.keep_every and not self.keep:
            raise SettingsError("checkpoint.keep=0 keeps all checkpoints: leave checkpoint.keep_every out")
        if self.local_folder and not os.path.isabs(self.local_folder):
            raise SettingsError(
                f"checkpoint.local_folder={self.local_folder} would be in the folder where the job is started, which "
                "nodes mostly share: name a folder of each node's own disk from / on, such as /local/checkpoints"
            )
        at_least("checkpoint.retries", self.retries, 0)
        at_least("checkpoint.retry_seconds", self.retry_seconds, 0)
        if self.fallback and not self.verify:
            raise SettingsError(
                "checkpoint.fallback=true needs checkpoint.verify=true, which finds what is damaged: set it, too"
            )
