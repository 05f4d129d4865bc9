"""What a job does with a sample that cannot be read."""

from dataclasses import dataclass

from .checks import SettingsError, choice

POLICIES = ("raise", "skip")


@dataclass(kw_only=True)
class BadSamplePolicy:
    """Of samples whose picture or record cannot be read, or is not what was written; storage that is gone ends a job
    always."""

    bad_samples: str = "raise"  # raise: the first one ends the job | skip: it is left out, counted and named
    # skip: of the samples seen (1,000, or all there are, at the least), the share above which the job ends
    bad_samples_share: float = 0.01

    def check_bad_samples(self) -> None:
        """Raises SettingsError."""
        choice("data.bad_samples", self.bad_samples, POLICIES)
        if not 0 < self.bad_samples_share <= 1:
            raise SettingsError(
                f"data.bad_samples_share={self.bad_samples_share} must lie in (0, 1]: 0.01 is one sample in a hundred; "
                "data.bad_samples=raise takes none"
            )

    @property
    def skips_bad_samples(self) -> bool:
        return self.bad_samples == "skip"
