"""Made-up runs: small networks with random weights, in the files that training and `regard bias` write."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from regard import bias, data
from regard.training import Recipe, Run, load_recipe, make_model

IMAGES = 60
CLUTTER = f'--data.options={{"train": 40, "test": {IMAGES}}}'
BASE = ["--model.name=wrn-10-1", "--schedule.epochs=3", "--schedule.milestones=[2]", "--device=cpu", CLUTTER]


VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The elements and the text of a page; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.source = text
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def labels(self) -> list[str]:
        """Labels of the figures for screen readers."""
        return [attributes["aria-label"] or "" for _, attributes in self.tags if attributes.get("role") == "img"]

    @property
    def outline(self) -> str:
        """The texts of headings, headers of columns, captions, paragraphs and names of facts, one per line."""
        body = re.sub(r"<style.*?</style>|<svg.*?</svg>", "", self.source, flags=re.DOTALL)
        parts = re.findall(
            r"<(h[1-4]|caption|summary|p|dt)\b[^>]*>(.*?)</\1>|<th scope=\"(col)\"[^>]*>(.*?)</th>", body, re.DOTALL
        )
        texts = [(tag or other, re.sub(r"<[^>]*>", "", text or header)) for tag, text, other, header in parts]
        return "\n".join(f"{tag}: {' '.join(unescape(text).split())}" for tag, text in texts)

    def check_self_contained(self) -> None:
        """Checks that the page is self-contained and runs no code."""
        for tag, attributes in self.tags:
            assert tag not in ("script", "link", "iframe", "object", "base", "form")
            assert not any(name.startswith("on") for name in attributes)
            for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
        assert "@import" not in self.source and not re.search(r"url\((?!#)", self.source)
        assert "default-src 'none'" in self.source
        assert all(attributes.get("alt") for tag, attributes in self.tags if tag == "img")
        ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]
        assert len(ids) == len(set(ids))


@pytest.fixture(scope="session")
def parse() -> type[Page]:
    """parse(source of a page) -> Page."""
    return Page


@pytest.fixture(scope="session")
def splits() -> data.Splits:
    return data.load("clutter", train=40, test=IMAGES)


@pytest.fixture(scope="session")
def recipe(splits: data.Splits) -> Recipe:
    base = load_recipe(None, BASE)
    return replace(base, data=replace(base.data, mean=splits.train.mean, std=splits.train.std))


def made_up_report(splits: data.Splits, seed: int, *, correct: float = 0.5, position: float = 0.3) -> bias.Results:
    """Random bias results with the given rates of correct predictions and of position bias."""
    test, generator = splits.test, np.random.default_rng(seed)
    assert test.regions is not None
    hits = generator.random(IMAGES) < correct
    biased = generator.random(IMAGES) < position
    labels = test.labels.numpy()
    measures = ("miss", "iou", "mean_iou", "best_iou", "energy_inside", "auc", "rank_accuracy", "top_k", "probability")
    rows = {name: generator.random(IMAGES) for name in measures}
    predicted = np.where(hits, labels, (labels + 1) % 10)
    rows |= {
        "label": labels,
        "predicted": predicted,
        "explained": predicted,
        "correct": hits,
        "position_bias": biased,
        "range_bias": ~biased & (generator.random(IMAGES) < 0.8),
        "spill": generator.random(IMAGES),
        "pointing": ~biased,
        "focus_area": np.full(IMAGES, 0.2),
        "region_area": test.regions.float().mean((1, 2)).numpy(),
        "constant": np.zeros(IMAGES, dtype=bool),
    }
    return bias.Results("WideResNet", "clutter", "test", "gradcam", "group2", "predicted", 0.5, test.classes, rows)


MakeRun = Callable[..., Run]


@pytest.fixture
def make_run(tmp_path: Path, recipe: Recipe, splits: data.Splits) -> MakeRun:
    """make_run(name, epochs=3, correct=0.5, position=0.3, measured=True, weights=True, **fields of the recipe)."""

    def make(
        name: str,
        *,
        epochs: int = 3,
        correct: float = 0.5,
        position: float = 0.3,
        measured: bool = True,
        weights: bool = True,
        **fields: object,
    ) -> Run:
        run_recipe = replace(recipe, **fields)
        run = Run.create(tmp_path / name, run_recipe, splits.test.classes)
        seed = sum(name.encode())
        results = made_up_report(splits, seed, correct=correct, position=position)
        accuracy = results.accuracy.value
        run.write_metrics(
            [
                {
                    **{"epoch": i + 1, "task": 2.3 - 0.4 * i, "loss": 9.9, "test_images": IMAGES},
                    "test_accuracy": accuracy if i == epochs - 1 else 0.1,
                }
                for i in range(epochs)
            ]
        )
        if measured:
            results.save(run.folder / "bias.json")
        if weights:
            torch.manual_seed(seed)
            run.save_weights(make_model(run_recipe, 10), "last", epochs, accuracy)
        return run

    return make
