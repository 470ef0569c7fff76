"""What of a GPU decides which kernels decode there and how they are laid out."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hardware:
    """`shared_bytes` is the most shared memory that a block can have."""

    capability: tuple[int, int]
    multiprocessors: int
    shared_bytes: int


def hardware_of(device: str) -> Hardware | None:
    """Of a device of this machine; None without a GPU."""
    if not device.startswith("cuda"):
        return None
    import torch

    found = torch.cuda.get_device_properties(device)
    return Hardware((found.major, found.minor), found.multi_processor_count, found.shared_memory_per_block_optin)
