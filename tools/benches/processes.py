"""What the kernel says of processes. Without PyTorch, whose memory is none of a client that is measured."""

from pathlib import Path


def status_bytes(name: str, pid: int | str = "self") -> int:
    """A line of /proc/PID/status that counts kB, such as VmRSS, in bytes; 0 on systems that do not say, and of a
    process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
