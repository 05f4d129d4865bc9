"""What operators return, remembered: on tensors of the same shapes an operator returns tensors of the same shapes.

PyTorch finds the shape of most results in Python, which takes ten times as long as looking it up; a step asks for the
same few hundred shapes a hundred thousand times.
"""

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

_META = torch.device("meta")


class KnownShapes:
    """Calls operators, and answers those that it has seen with new tensors of the same form."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Any] = {}
        self._pure: dict[Any, bool] = {}

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What `func(*args, **kwargs)` returns on the device `meta`."""
        if not self._is_pure(func):
            return func(*args, **kwargs)
        try:
            key = (func, _key(args), _key(tuple(kwargs.items())))
            known = self._known.get(key)
        except TypeError:  # an argument that cannot be compared
            return func(*args, **kwargs)
        if known is not None:
            return _again(known)
        out = func(*args, **kwargs)
        form = _form(out)
        if form is not None:
            self._known[key] = form
        return out

    def _is_pure(self, func: Any) -> bool:
        """Whether nothing that it returns shares memory with what it takes, and it changes nothing."""
        known = self._pure.get(func)
        if known is None:
            schema = func._schema
            known = all(value.alias_info is None for value in (*schema.arguments, *schema.returns))
            self._pure[func] = known
        return known


def _key(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return (value.dtype, value.device, value.shape, value.stride())
    if isinstance(value, tuple | list):
        return tuple(map(_key, value))
    return (type(value), value)  # 1, 1.0 and True are equal and give different types


def _form(out: Any) -> Any:
    """Shape, stride and dtype of a tensor, or a tuple or list of these; None for what cannot be made again."""
    if isinstance(out, Tensor):
        return (out.shape, out.stride(), out.dtype) if out.device == _META else None
    if type(out) in (tuple, list) and out:
        forms = [_form(part) for part in out]
        return type(out)(forms) if all(isinstance(form, tuple) and len(form) == 3 for form in forms) else None
    return None


def _again(form: Any) -> Any:
    if isinstance(form, tuple) and isinstance(form[0], torch.Size):
        shape, stride, dtype = form
        return torch.empty_strided(shape, stride, dtype=dtype, device=_META)
    return type(form)(_again(part) for part in form)
