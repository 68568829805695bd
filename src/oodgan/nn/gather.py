"""The whole batch of all processes, for what looks at a batch as one."""

from __future__ import annotations

import torch
from torch import Tensor


def whole_batch(x: Tensor) -> tuple[Tensor, slice]:
    """Gather x (B, ...) from all processes as (W x B, ...), and say which rows are this process's.

    Gradients flow back to the process that a row came from. With one process, or without gradients (where processes may
    have batches of different sizes), it is x itself.
    """
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not ready or torch.distributed.get_world_size() == 1 or not torch.is_grad_enabled():
        return x, slice(0, len(x))
    from torch.distributed.nn.functional import all_gather

    first = torch.distributed.get_rank() * len(x)
    return torch.cat(all_gather(x.contiguous())), slice(first, first + len(x))
