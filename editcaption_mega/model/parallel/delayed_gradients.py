"""Weight gradients that a pipeline stage makes after it has sent on the gradient of its input, which the stage before
is waiting for, and of which some wait for the end of the step, where stages would stand idle.

The schedule ZB-H1 of Zero Bubble Pipeline Parallelism (Qi et al., 2024, https://arxiv.org/abs/2401.10241), in which
stage s holds back those of s micro-batches, with a number for each stage. What waits keeps the input of its product and
the gradient of its output: about what one more micro-batch in flight does, and stage s has s fewer of these.
"""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from editcaption_mega.kernels import returned_gradient

from .marks import mark

Finish = Callable[[], None]
Begin = Callable[[], Finish]  # begins to gather what a product needs -> what makes the product


class Product(NamedTuple):
    begin: Begin
    added: Finish | None


def held_back(stage: int, stages: int, micro_batches: int, done: int, most: int) -> int:
    """Micro-batches whose weight gradients may still wait when a stage has ended `done` backward passes. most: of this
    stage, setting `parallel.delayed_weight_gradients`.

    Behind its last forward pass a stage stands between two backward passes: with each of them one fewer may wait."""
    warm_up = min(stages - stage - 1, micro_batches)
    behind = max(0, done - (micro_batches - warm_up))
    return 0 if done == micro_batches else max(0, most - behind)


class DelayedGradients:
    """Of one stage. Products come in the order in which the backward pass meets them, and are made in that order."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._met: list[Product] = []  # of the backward pass that runs
        self._waiting: deque[list[Product]] = deque()  # of those that have ended, a list for each

    def __deepcopy__(self, memo: dict[int, Any]) -> "DelayedGradients":
        return self  # Megatron copies configs for some of its modules: there is one queue

    def add(self, begin: Begin, added: Finish | None) -> None:
        """added: to be called when a weight's gradient of this micro-batch is in its buffer."""
        self._met.append(Product(begin, added))

    def end_backward(self, keep: int) -> None:
        """A backward pass has ended: make what waits, but that of the last `keep` micro-batches."""
        last, self._met = self._met, []
        self._waiting.append(last)
        while len(self._waiting) > keep:
            # Ready is a weight with the gradient of the newest micro-batch, which is the step's last when it counts.
            self.make(self._waiting.popleft(), ready=not self._waiting)

    @torch.no_grad()
    def make(self, products: Iterable[Product], *, ready: bool) -> None:
        """One product after another; while one is made, what the next needs is on its way."""
        finish: Finish = _nothing
        for begin, added in products:
            following = begin()
            finish()
            finish = partial(_finish, following, added if ready else None)
        finish()


def _finish(product: Finish, added: Finish | None) -> None:
    product()
    if added is not None:
        added()


def _nothing() -> None:
    pass


class GradientRule(NamedTuple):
    """How a layer makes the gradients of its weights."""

    fused: bool = True  # setting model.fused_weight_gradients
    delayed: DelayedGradients | None = None
    added: Finish | None = None  # see `DelayedGradients.add`

    def delays(self, weight: Tensor) -> bool:
        """Whether this one's is made later: there is a queue, and a buffer that it can be added to."""
        return self.delayed is not None and getattr(weight, "main_grad", None) is not None

    def delay(self, begin: Begin) -> None:
        assert self.delayed is not None
        self.delayed.add(begin, self.added)


class MakesGradientsLater:
    """A module some of whose weights get their gradients from `DelayedGradients`.

    Megatron's data-parallel wrapper hooks on to autograd, which has no gradients of these weights; with
    `skip_backward_post_hook` it gives the hooks to the module instead (megatron-core 0.19:
    `DistributedDataParallel.__init__`)."""

    later: tuple[nn.Parameter, ...] = ()
    _hooks: list[Callable[[], None]]

    def make_later(self, *weights: nn.Parameter) -> None:
        """These weights, all that the module has."""
        self.later, self._hooks = weights, []
        for weight in weights:
            mark(weight, skip_backward_post_hook=True)

    def register_wgrad_accumulation_and_reduce_hooks(self, hook: Callable[[], None]) -> None:
        """Megatron's name. hook: to be called when the gradient of one of the weights is whole."""
        self._hooks.append(hook)

    def gradients_added(self) -> None:
        """The gradients of the weights lie in their buffers."""
        for weight in self.later:
            weight.grad = returned_gradient(weight) if weight.requires_grad else None
        for hook in self._hooks:
            hook()
