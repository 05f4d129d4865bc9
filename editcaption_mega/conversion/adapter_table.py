"""The table of adapters: which Hugging Face modules can have one, and what its parameters are.

It is made of the table of weights (`rules`), and read both ways: from patterns of Hugging Face names to parameters of
the model, and from these to the tensors of a PEFT folder (`peft_folder`). An adapter belongs to one Hugging Face
module, so a weight that is several of them here (Q, K and V; gate and up) has one for each, with an A of its own and
the rows of B that its rows of the weight are. Algebra: docs/lora.md.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from types import MappingProxyType

from editcaption_mega.model import ADAPTERS, AdapterPart, AdapterPlan, Architecture
from editcaption_mega.settings import AdapterSettings, SettingsError

from .rules import Piece, Rule, Shape, rules_for, unique_rules

# Weights of linear layers, by the ends of their names; norms, embeddings and the head are none.
_LINEAR = re.compile(
    r"\.(linear_qkv|linear_proj|linear_fc1|linear_fc2|attn\.qkv|attn\.proj|router)\.weight$|\.experts\.(gate_up|down)$"
)
_LAYER = re.compile(r"\.language_model\.layers\.(\d+)\.(.+)$")
_ALIGNMENT = 16  # bytes that a row of a grouped product's operand is a multiple of (torch.nn.functional.grouped_mm)
_ITEM_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class AdapterTarget:
    """A Hugging Face module that can have an adapter, and the weight and rows that it is here."""

    name: str  # of the module; of experts that of their parameter
    rule: Rule
    piece: Piece  # of experts the first of those with this name
    part: AdapterPart

    @property
    def of_experts(self) -> bool:
        return self.rule.expert_axis is not None

    @property
    def of_router(self) -> bool:
        return self.rule.module == "router"

    @property
    def prefix(self) -> str:
        """Of its parameters' names."""
        layer = self.rule.name.rpartition(".")[0]
        return f"{layer}{ADAPTERS}{self.part.leaf}."

    @property
    def kind(self) -> str:
        """The name with every number as *."""
        return re.sub(r"\.\d+\.", ".*.", self.name)

    @property
    def smaller_side(self) -> int:
        """Of the matrix."""
        *experts_rows, columns = self.rows
        rows = 1
        for n in experts_rows[1:] if self.of_experts else experts_rows:
            rows *= n
        return min(rows, columns)

    @property
    def rows(self) -> Shape:
        """The canonical shape of the module's weight."""
        return self.rule.shape if self.of_experts else self.piece.box.shape

    def rules(self, settings: AdapterSettings) -> list[Rule]:
        """Of its parameters: A, B, and the magnitude of DoRA."""
        rule, rank, last = self.rule, settings.rank, len(self.rule.shape) - 1
        columns, rows = self.rows[-1], self.rows[:-1]
        if self.of_experts:
            if settings.experts == "shared":
                a, b = Rule("", (rank, columns), ()), Rule("", (*rows[1:], rank), ())
            else:
                divided = rule.expert_tensor_axis
                a = Rule("", (rows[0], rank, columns), (), expert_axis=0)
                b = Rule("", (*rows, rank), (), expert_axis=0)
                if divided == last:
                    a = replace(a, expert_tensor_axis=2)
                else:
                    b = replace(b, expert_tensor_axis=divided)
        else:
            by_columns = rule.tensor_axis == last
            a = Rule("", (rank, columns), (), tensor_axis=1 if by_columns else None)
            b = Rule("", (*rows, rank), (), tensor_axis=None if by_columns else rule.tensor_axis)
        made = [replace(a, name=self.prefix + "lora_A"), replace(b, name=self.prefix + "lora_B")]
        if settings.dora:
            made.append(replace(b, name=self.prefix + "magnitude", shape=b.shape[:-1]))
        return [replace(each, module=rule.module) for each in made]


@lru_cache(maxsize=4)
def adapter_table(architecture: Architecture) -> tuple[AdapterTarget, ...]:
    """Everything that can have an adapter, in the order of the weights."""
    return tuple(
        target
        for rule in unique_rules(rules_for(architecture))
        if _LINEAR.search(rule.name)
        for target in _targets(rule)
    )


def _targets(rule: Rule) -> list[AdapterTarget]:
    if rule.expert_axis is not None or len(rule.pieces) == 1:
        name = rule.pieces[0].name.removesuffix(".weight")
        return [AdapterTarget(name, rule, rule.pieces[0], AdapterPart(name.rpartition(".")[2]))]
    targets = []
    for piece in rule.pieces:
        name = piece.name.removesuffix(".weight")
        (axis,) = (i for i in (0, 1) if piece.box.shape[i] != rule.shape[i])
        part = AdapterPart(
            name.rpartition(".")[2], axis, piece.box.start[axis], piece.box.shape[axis], rule.shape[axis]
        )
        targets.append(AdapterTarget(name, rule, piece, part))
    return targets


@dataclass(frozen=True)
class AdapterChoice:
    """The modules of a model that the settings choose."""

    architecture: Architecture
    settings: AdapterSettings
    targets: tuple[AdapterTarget, ...]

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        settings: AdapterSettings,
        *,
        frozen: tuple[str, ...] = (),
        precision: str | None = None,
    ) -> "AdapterChoice | None":
        """None where the settings ask for none. frozen: of the modules of `settings.OptimizerSettings.multipliers`.
        precision: in which they are to be trained; None: they are not.

        Raises SettingsError for a pattern that matches nothing, or a frozen module, and for an adapter that cannot be.
        """
        if not settings.rank:
            return None
        table = adapter_table(architecture)
        matched: set[str] = set()
        for pattern in settings.modules:
            names = {target.name for target in table if _matches(target.name, pattern)}
            if not names:
                kinds = ", ".join(dict.fromkeys(target.kind for target in table))
                raise SettingsError(
                    f"model.adapters.modules: {pattern!r} matches nothing that can have an adapter: of this model "
                    f"these can, where * stands for numbers too: {kinds}"
                )
            matched |= names
        targets = tuple(target for target in table if target.name in matched)
        for target in targets:
            _check(target, settings, frozen, precision)
        return cls(architecture, settings, targets)

    @cached_property
    def rules(self) -> Mapping[str, Rule]:
        """Of the parameters of all adapters, by name."""
        return MappingProxyType({rule.name: rule for t in self.targets for rule in t.rules(self.settings)})

    @property
    def size(self) -> int:
        """Parameters of all adapters."""
        return sum(rule.size for rule in self.rules.values())

    def of_part(self, architecture: Architecture) -> "AdapterChoice":
        """Of the same modules of a model that is a part of this one: with fewer layers, or without DeepStack."""
        names = {target.name for target in self.targets}
        targets = tuple(target for target in adapter_table(architecture) if target.name in names)
        return replace(self, architecture=architecture, targets=targets)

    @property
    def layers_alike(self) -> bool:
        """Whether every decoder layer has the same adapters, so that one stands for all."""
        of_layers: list[set[str]] = [set() for _ in range(self.architecture.num_layers)]
        for target in self.targets:
            if layer := _LAYER.search(target.name):
                of_layers[int(layer[1])].add(layer[2])
        return all(each == of_layers[0] for each in of_layers)

    def plan(self, seed: int) -> AdapterPlan:
        """For the model."""
        parts: dict[str, tuple[AdapterPart, ...]] = {}
        for target in self.targets:
            parts[target.rule.name] = (*parts.get(target.rule.name, ()), target.part)
        settings = self.settings
        return AdapterPlan(
            settings.rank, settings.scale, settings.dropout, settings.dora, settings.experts, seed,
            MappingProxyType(parts),
        )  # fmt: skip

    def lines(self) -> list[str]:
        """What is matched, counted, for people."""
        settings, size = self.settings, self.size
        whole = sum(rule.size for rule in unique_rules(rules_for(self.architecture)))
        options = [
            f"rank {settings.rank}", f"scale {settings.scale:g}",
            *([f"dropout {settings.dropout:g}"] if settings.dropout else []), *(["DoRA"] if settings.dora else []),
            *([f"experts: {settings.experts}"] if any(target.of_experts for target in self.targets) else []),
        ]  # fmt: skip
        counts = Counter(target.kind for target in self.targets)
        return [
            f"adapters ({', '.join(options)}) on {len(self.targets):,} modules: {size:,} parameters are trained, "
            f"{100 * size / whole:.2f} % of the {whole:,} that stay as they are",
            *(f"  {count:>6,} x {kind}" for kind, count in counts.items()),
        ]


def _matches(name: str, pattern: str) -> bool:
    """Whole, or from a dot on."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def _check(target: AdapterTarget, settings: AdapterSettings, frozen: tuple[str, ...], precision: str | None) -> None:
    """Raise SettingsError for an adapter that cannot be, or would not be trained."""
    rank, name = settings.rank, target.name
    if target.rule.module in frozen:
        raise SettingsError(
            f"model.adapters.modules matches {name}, which optimizer.{target.rule.module}=0 freezes: set a multiplier "
            "above 0 for its adapter, or leave it out of the patterns"
        )
    if rank > target.smaller_side:
        raise SettingsError(
            f"model.adapters.rank={rank} is more than the {target.smaller_side} that the smaller side of {name} has: "
            "lower it, or leave the module out of the patterns"
        )
    if not (target.of_experts or target.of_router):
        return
    for option in ("dropout", "dora"):
        if value := getattr(settings, option):
            raise SettingsError(
                f"model.adapters.{option}={value} is not possible on experts and routers, of which the patterns match "
                f"{name}: PEFT has none there either; leave it out, or choose other modules"
            )
    multiple = 1 if precision is None else _ALIGNMENT // _ITEM_BYTES[precision]
    if target.of_experts and settings.experts == "each" and rank % multiple:
        raise SettingsError(
            f"model.adapters.rank={rank} is not possible on experts with training.precision={precision}: grouped "
            f"products need a multiple of {multiple}; take one, or model.adapters.experts=shared"
        )
