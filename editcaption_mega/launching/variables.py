"""What ranks have in their environment unless it says otherwise already, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping

DEFAULTS = {
    "PYTHONUNBUFFERED": ("1", "a line is in the log when it is said"),
    "PYTHONFAULTHANDLER": ("1", "a crash of compiled code leaves a traceback"),
    "CUDA_DEVICE_MAX_CONNECTIONS": ("1", "Megatron's collectives start before the products that they overlap with"),
    "PYTORCH_CUDA_ALLOC_CONF": ("expandable_segments:True", "rows vary in length: segments that grow leave no gaps"),
    "NCCL_GRAPH_REGISTER": ("0", "NCCL cannot register such memory for graphs"),
    "NCCL_DEBUG": ("WARN", "NCCL says why it failed, and nothing else"),
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": ("1", "a collective that failed or timed out ends its rank"),
    "TORCH_FR_BUFFER_SIZE": ("2000", "flight recorder: the last collectives of each rank, for the watchdog's dump"),
    "TORCH_NCCL_DUMP_ON_TIMEOUT": ("1", "they are written when a collective times out, too"),
}
# Left to the site, which knows its network; named in docs/launching.md.
PLACES = (
    "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "NCCL_IB_HCA", "NCCL_NET_PLUGIN", "UCX_NET_DEVICES", "FI_PROVIDER",
    "HF_HOME",
)  # fmt: skip


def missing(environment: Mapping[str, str], ranks_per_node: int) -> dict[str, str]:
    """The variables to add. One thread to a rank where several share a machine: PyTorch would take all its cores."""
    wanted = {name: value for name, (value, _) in DEFAULTS.items()}
    if ranks_per_node > 1:
        wanted["OMP_NUM_THREADS"] = "1"
    return {name: value for name, value in wanted.items() if name not in environment}
