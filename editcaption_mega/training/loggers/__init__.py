"""Where a run's numbers, texts and images go beside its own files: TensorBoard, Weights & Biases, MLflow."""

from .chosen import check_chosen, open_chosen
from .groups import grouped
from .logger import Logger, Loggers

__all__ = ["Logger", "Loggers", "check_chosen", "grouped", "open_chosen"]
