"""`regard evaluate`: accuracy of trained networks."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from regard import bias, training
from regard.commands.subjects import Subject, add_subject_options, subjects
from regard.errors import InputError


def main(arguments: list[str]) -> int:
    parser = training.RecipeParser(
        prog="regard evaluate",
        usage="regard evaluate MODEL… [--data SET] [OPTIONS]",
        description="Accuracy of networks: of runs, on the test images of their data or of others with the same "
        "classes; of imported .safetensors files, of timm's names with pretrained weights, and of NAME=CHECKPOINT.",
    )
    add_subject_options(parser)
    for subject in subjects(parser, arguments, labels=True):
        loss, correct, count = _score(subject)
        if not count:
            raise InputError(f"not one image of {subject.images.name} has a label that {subject.name} knows")
        low, high = bias.wilson(correct, count)
        data = f"{subject.images.name} {subject.images.split}".strip()
        print(
            f"{subject.name} ({subject.options.weights}) on {data}: accuracy {correct / count:.2%} "
            f"[{low:.2%}, {high:.2%}], loss {loss / count:.4f}, {count} images"
        )
        subject.release()
    return 0


@torch.no_grad()
def _score(subject: Subject) -> tuple[float, int, int]:
    """Sum of the cross entropies, right predictions, and images that have a label."""
    loss, correct, count = 0.0, 0, 0
    targets = torch.tensor(subject.label_outputs, device=subject.device)
    for batch in subject.batches():
        known = batch.labels >= 0
        labels = targets[batch.labels[known]]
        logits = subject.model(batch.images)[known]
        loss += F.cross_entropy(logits, labels, reduction="sum").double().item()
        correct += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    return loss, correct, count
