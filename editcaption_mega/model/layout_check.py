"""Which layouts a model can have."""

from editcaption_mega.settings import ParallelSettings

from .architecture import Architecture
from .pipeline_split import split_layers


def check_layout(architecture: Architecture, parallel: ParallelSettings) -> None:
    """Raise ValueError, naming the setting to change, when the layout does not fit the model."""
    tensor, expert = parallel.tensor_model_parallel_size, parallel.expert_model_parallel_size

    def divides(setting: str, size: int, what: str, count: int) -> None:
        if count % size:
            raise ValueError(f"parallel.{setting}={size} does not divide the {count} {what} of the model")

    divides("tensor_model_parallel_size", tensor, "kv heads", architecture.num_kv_heads)
    divides("tensor_model_parallel_size", tensor, "vocabulary rows", architecture.vocab_size)
    divides("tensor_model_parallel_size", tensor, "feed-forward channels", architecture.intermediate_size)
    if parallel.use_sequence_parallel:
        divides("tensor_model_parallel_size", tensor, "heads of the vision tower", architecture.vision.num_heads)
    if architecture.experts is None:
        if expert > 1:
            raise ValueError(
                f"parallel.expert_model_parallel_size={expert} needs a mixture-of-experts model, this one is dense: "
                "set it to 1"
            )
    else:
        divides("expert_model_parallel_size", expert, "experts", architecture.experts.num_experts)
        expert_tensor = parallel.expert_tensor_parallel_size or tensor
        channels = architecture.experts.intermediate_size
        divides("expert_tensor_parallel_size", expert_tensor, "expert feed-forward channels", channels)
        if tensor > 1 and not parallel.use_sequence_parallel:
            raise ValueError(
                "parallel.sequence_parallel=false with tensor_model_parallel_size > 1 is not possible for a "
                "mixture-of-experts model: set it to true"
            )
    split_layers(architecture.num_layers, parallel)
