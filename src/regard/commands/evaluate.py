"""`regard evaluate`: accuracy of trained networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from itertools import chain
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional as F

from regard import bias, training
from regard.commands.processes import several_processes
from regard.commands.subjects import Trial, add_subject_options, trials
from regard.errors import InputError
from regard.logits import class_logits, logits_of, predicted_classes
from regard.modes import of_its_dtype
from regard.terminal import say


def main(arguments: list[str]) -> int:
    parser = training.RecipeParser(
        prog="regard evaluate",
        usage="regard evaluate MODEL… [--data SET] [OPTIONS]",
        description="Accuracy of networks: of runs and of checkpoints in their folders, on the test images of their "
        "data or of others with the same classes; of imported .safetensors files, of timm's names with pretrained "
        "weights, and of NAME=CHECKPOINT. Notes say where the images are other than those of the training; under "
        "torchrun or srun several processes share the work.",
    )
    add_subject_options(parser)
    with several_processes(arguments) as rank:
        told: Callable[[str], None] = say if rank == 0 else lambda _: None
        for trial in trials(parser, arguments, labels=True, say=told):
            _tell_precision(trial, told)
            _tell(trial, _all_of(_score(trial, rank)), told)
            trial.release()
    return 0


@dataclass
class _Score:
    """Sums over the images that have a label, and the files that could not be read."""

    loss: float = 0.0
    correct: int = 0
    among_five: int = 0
    images: int = 0
    skipped: list[str] = field(default_factory=list)


@torch.no_grad()
def _score(trial: Trial, rank: int) -> _Score:
    """Of this process's part of the images, all of them if it is alone."""
    score = _Score()
    targets = torch.tensor(trial.label_outputs, device=trial.device)
    for batch in trial.loader(rank=rank, world_size=_processes()).epoch(0):
        score.skipped += batch.skipped
        if not len(batch.images):
            continue
        known = batch.labels >= 0
        labels = targets[batch.labels[known]]
        given = logits_of(trial.model(of_its_dtype(trial.model, batch.images)))[known]
        logits = class_logits(given)
        score.loss += F.cross_entropy(logits, labels, reduction="sum").double().item()
        score.correct += int((predicted_classes(given) == labels).sum())
        five = logits.topk(min(5, logits.shape[1])).indices
        score.among_five += int((five == labels[:, None]).sum())
        score.images += len(labels)
    return score


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _all_of(part: _Score) -> _Score:
    """The scores of all processes together."""
    if _processes() == 1:
        return part
    parts: list[Any] = [None] * _processes()
    dist.all_gather_object(parts, astuple(part))
    loss, correct, among_five, images, skipped = zip(*parts, strict=True)
    return _Score(sum(loss), sum(correct), sum(among_five), sum(images), sorted(chain(*skipped)))


def _tell(trial: Trial, score: _Score, say: Callable[[str], None]) -> None:
    skipped = [*getattr(trial.images, "skipped", ()), *score.skipped]  # held whole, as they were read; others, now
    unread = f"{len(skipped)} unreadable images skipped: {', '.join(skipped[:3])}{', …' if len(skipped) > 3 else ''}"
    if not score.images:
        reason = f" ({unread})" if skipped else ""
        raise InputError(f"not one image of {trial.images.name} has a label that {trial.name} knows{reason}")
    data = f"{trial.images.name} {trial.images.split}".strip()
    shares = [f"accuracy {_share(score.correct, score.images)}"]
    if len(trial.outputs) > training.MANY_CLASSES:
        shares.append(f"top-5 {_share(score.among_five, score.images)}")
    say(
        f"{trial.name} ({trial.network.weights}) on {data}: {', '.join(shares)}, loss {score.loss / score.images:.4f}, "
        f"{score.images} images"
    )
    if skipped:
        say(unread)


def _tell_precision(trial: Trial, say: Callable[[str], None]) -> None:
    recipe = trial.network.recipe
    if recipe is not None and recipe.precision != "float32":
        precision = recipe.precision
        say(f"note: {trial.name} was trained with precision {precision}; it is scored in float32, as in its tests")


def _share(count: int, images: int) -> str:
    low, high = bias.wilson(count, images)
    return f"{count / images:.2%} [{low:.2%}, {high:.2%}]"
