"""A seed for every step of every process."""

from __future__ import annotations

import torch

_64_BITS = 0xFFFFFFFFFFFFFFFF


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of what is random in a step, such as dropout: so it depends on nothing that came before.

    Seeds of neighbouring steps and processes have nothing in common: the finaliser of SplitMix64 (Steele, Lea, Flood,
    OOPSLA 2014) spreads a change of any bit over all.

    Args:
        seed: of the run.
        step: from 0.
        rank: of the process, below 65536.

    Returns:
        0 to 2^63 - 1.
    """
    mixed = (seed + 0x9E3779B97F4A7C15 * (step * 65536 + rank + 1)) & _64_BITS
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & _64_BITS
    return (mixed ^ (mixed >> 31)) >> 1


def seed_step(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Seeds what is random in a step, such as dropout, on the processor and on `device`."""
    number = step_seed(seed, step, rank)
    torch.default_generator.manual_seed(number)  # torch.manual_seed asks all kinds of devices, which takes its time
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)
