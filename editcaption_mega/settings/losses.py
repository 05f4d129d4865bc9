"""The preference losses by name; their formulas are in kernels/preference_losses.py and csrc/finalize_math.h."""

from typing import Literal, NamedTuple, get_args

# A function of z; csrc/finalize_math.h has the same names in the same order.
Shape = Literal["sigmoid", "robust", "hinge", "ipo"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
SMOOTHED: tuple[Shape, ...] = ("sigmoid", "robust")  # those with `label_smoothing` in their formula


class LossForm(NamedTuple):
    """How a loss is made of log-probs."""

    shape: Shape
    per_token: bool = False  # log-probs per token instead of summed
    reference_free: bool = False  # without a reference model

    @property
    def smoothed(self) -> bool:
        """Whether `label_smoothing` means something for it."""
        return self.shape in SMOOTHED


# The one list of names: settings, kernels and objectives read it. A loss of another form is one line here; one of a new
# shape also is a branch of `pair_losses` and of csrc/finalize_math.h.
LOSSES: dict[str, LossForm] = {
    "sigmoid": LossForm("sigmoid"),
    "robust": LossForm("robust"),
    "hinge": LossForm("hinge"),
    "ipo": LossForm("ipo", per_token=True),
    "sigmoid_norm": LossForm("sigmoid", per_token=True),
    "simpo": LossForm("sigmoid", per_token=True, reference_free=True),
}
