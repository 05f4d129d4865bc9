"""How a report was made: its rows of names and values."""

from collections.abc import Sequence
from datetime import UTC, datetime

from editcaption_mega.data.text.prompt import Prompt
from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.judge.code_judges import CODE_JUDGES
from editcaption_mega.evaluation.judge.prompts import judge_prompt
from editcaption_mega.records import DIMENSIONS, Instruction, Judgement
from editcaption_mega.settings import EvaluationSettings


def facts_of(
    settings: EvaluationSettings,
    benchmarks: Sequence[Benchmark],
    texts: Sequence[Instruction],
    judgements: Sequence[Judgement],
) -> list[tuple[str, str]]:
    """What a report says of its making; texts and judgements are asked for what endpoints say of themselves."""
    generation = settings.generation
    facts = [("made", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")]
    facts += [(f"benchmark {one.name}", f"{len(one):,} pairs, fingerprint {one.fingerprint}") for one in benchmarks]
    if settings.limit:
        facts.append(("limit", f"the first {settings.limit:,} pairs of each benchmark alone"))
    facts.append(
        ("instructions", f"one prompt for all models ({Prompt.load(generation.prompt).fingerprint}), at most "
         f"{generation.max_tokens} tokens, temperature {generation.temperature}, seed {generation.seed}")
    )  # fmt: skip
    for model in settings.models:
        own = [row for row in texts if row.model == model.name]
        cut_off = sum(row.instruction is not None and row.provenance.get("finished") is False for row in own)
        if cut_off:
            facts.append((f"model {model.name}", f"{cut_off:,} of {len(own):,} texts are cut off at max_tokens"))
    for judge in settings.judges:
        if judge.kind in CODE_JUDGES:
            facts.append((f"judge {judge.name}", CODE_JUDGES[judge.kind].about))
            continue
        served = sorted(
            {
                name
                for row in judgements
                if row.judge == judge.name
                for name in row.provenance.get("served", {}).values()
            }
        )
        prompts = ", ".join(f"{dimension} {judge_prompt(dimension).fingerprint}" for dimension in DIMENSIONS)
        facts.append(
            (f"judge {judge.name}", f"{judge.endpoint.model} (served: {', '.join(served) or 'unknown'}), {judge.mode} "
             f"mode, {judge.repeats} judgements per instruction, prompts {prompts}")
        )  # fmt: skip
    return facts
