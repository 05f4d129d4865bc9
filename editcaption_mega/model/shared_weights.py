"""Models that have the same weights, once in memory: such as each with adapters of its own on them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from .parallel.adapter_plan import ADAPTERS


@contextmanager
def without_weights(active: bool = True) -> Iterator[None]:
    """A block in which the parameters of new modules take no memory: each is freed as soon as its module has it."""

    def freed(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    if not active:
        yield
        return
    # Its stub says that hooks return nothing; what they return takes the place of the parameter.
    hook = register_module_parameter_registration_hook(freed)  # type: ignore[arg-type]
    try:
        yield
    finally:
        hook.remove()


def share_weights(model: nn.Module, weights: Mapping[str, nn.Parameter]) -> None:
    """Give a model that was made `without_weights` these very parameters. Raises ValueError where they are others than
    it has."""
    own = dict(model.named_parameters())
    if {name: weight.shape for name, weight in weights.items()} != {name: empty.shape for name, empty in own.items()}:
        raise ValueError("weights can be shared by models of the same architecture and layout alone")
    for name in own:
        module, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module), leaf, weights[name])


def weights_to_share(model: nn.Module) -> dict[str, nn.Parameter]:
    """All but the parameters of adapters, by name."""
    return {name: weight for name, weight in model.named_parameters() if ADAPTERS not in f".{name}"}
