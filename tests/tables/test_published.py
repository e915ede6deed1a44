"""The packaged published tables, and custom tables."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import pytest
import torch

from regard import recipes
from regard.errors import InputError
from regard.tables.published import Cell, PublishedTable, load_table, table_names
from regard.training import ModelRecipe, Recipe, make_model

NAMES = (
    *("attention-transfer-cifar10", "attention-transfer-fine-grained", "attention-transfer-gradients"),
    *("attention-transfer-groups", "attention-transfer-imagenet", "attention-transfer-maps", "builtin"),
    *("distillation-cifar100", "lsas-cifar", "lsas-imagenet", "lsas-resnet29"),
    *("sa-net-coco-boxes", "sa-net-coco-masks", "sa-net-imagenet"),
)
DETECTION = ("sa-net-coco-boxes", "sa-net-coco-masks")
UNPUBLISHED = ("builtin", "lsas-resnet29")  # nothing is published

# The published values as the papers and their repositories print them: row -> columns in the order of the table.
FIGURES = {
    "lsas-cifar": {"cifar10": "94.57 95.01", "cifar100": "75.30 76.47", "stl10": "83.81 85.71"},
    "lsas-imagenet": {"resnet50": "76.63 77.28"},
    "attention-transfer-cifar10": {
        "nin-thin-from-nin-wide": "9.38 8.93 9.05 8.55 8.33 - 7.28",
        "wrn-16-1-from-16-2": "8.77 7.93 8.51 7.41 7.51 - 6.31",
        "wrn-16-1-from-40-1": "8.77 8.25 8.62 8.39 8.01 - 6.58",
        "wrn-16-2-from-40-2": "6.31 5.85 6.24 6.08 5.71 - 5.23",
    },
    "attention-transfer-groups": {"wrn-16-1-from-16-2": "8.77 8.11 7.96 7.97 7.93 6.31"},
    "attention-transfer-maps": {"wrn-16-1-from-16-2": "8.77 7.99 7.93 8.09 8.08 6.31"},
    "attention-transfer-gradients": {"nin-thin-plain-from-nin-wide": "13.5 12.5 12.1 12.1 11.8 11.2 -"},
    "attention-transfer-fine-grained": {"cub": "28.5 27 27 26.5", "scenes": "28.2 28.1 27.1 26"},
    "attention-transfer-imagenet": {"resnet18-from-34": "30.4/10.8 29.3/10.0 -/- 26.1/8.3"},
    "distillation-cifar100": {  # student, KD, AT, AT+KD, teacher
        "wrn-16-2-from-wrn-40-2": "73.26 74.92 74.08 - 75.61",
        "wrn-40-1-from-wrn-40-2": "71.98 73.54 72.77 - 75.61",
        "resnet20-from-resnet56": "69.06 70.66 70.55 - 72.34",
        "resnet20-from-resnet110": "69.06 70.67 70.22 - 74.31",
        "resnet32-from-resnet110": "71.14 73.08 72.31 - 74.31",
        "resnet8x4-from-resnet32x4": "72.50 73.33 73.44 - 79.42",
        "vgg8-from-vgg13": "70.36 72.98 71.43 - 74.64",
        "mobilenetv2-from-vgg13": "64.60 67.37 59.40 - 74.64",
        "mobilenetv2-from-resnet50": "64.60 67.35 58.58 - 79.34",
        "vgg8-from-resnet50": "70.36 73.81 71.84 - 79.34",
        "shufflenetv1-from-resnet32x4": "70.50 74.07 71.73 - 79.42",
        "shufflenetv2-from-resnet32x4": "71.82 74.45 72.73 - 79.42",
        "shufflenetv1-from-wrn-40-2": "70.50 74.83 73.32 - 75.61",
    },
    # AP, AP50, AP75, AP small, medium, large, million parameters and GFLOPs
    "sa-net-coco-boxes": {
        "faster-rcnn-resnet50": (
            "36.4/58.4/39.1/21.5/40.0/46.6/41.53/207.07 "
            "37.7/60.1/40.9/22.9/41.9/48.2/44.02/207.18 "
            "38.7/61.2/41.4/22.3/42.5/49.8/41.53/207.35"
        ),
        "faster-rcnn-resnet101": (
            "38.5/60.3/41.6/22.3/43.0/49.8/60.52/283.14 "
            "39.6/62.0/43.1/23.7/44.0/51.4/65.24/283.33 "
            "41.0/62.7/44.8/24.4/45.1/52.5/60.53/283.60"
        ),
        "mask-rcnn-resnet50": (
            "37.3/59.0/40.2/21.9/40.9/48.1/44.18/275.58 "
            "38.7/60.9/42.1/23.4/42.7/50.0/46.67/275.69 "
            "39.4/61.5/42.6/23.4/42.8/51.1/44.18/275.86"
        ),
        "mask-rcnn-resnet101": (
            "39.4/60.9/43.3/23.0/43.7/51.4/63.17/351.65 "
            "40.7/62.5/44.3/23.9/45.2/52.8/67.89/351.84 "
            "41.6/63.0/45.5/24.9/45.5/54.2/63.17/352.10"
        ),
        "retinanet-resnet50": (
            "35.6/55.5/38.3/20.0/39.6/46.8/37.74/239.32 "
            "36.0/56.7/38.3/20.5/39.7/47.7/40.25/239.43 "
            "37.5/58.5/39.7/21.3/41.2/45.9/37.74/239.60"
        ),
        "retinanet-resnet101": (
            "37.7/57.5/40.4/21.1/42.2/49.5/56.74/315.39 "
            "38.8/59.3/41.7/22.1/43.2/51.5/61.49/315.58 "
            "40.3/61.2/43.2/23.2/44.4/53.5/56.64/315.85"
        ),
    },
    "sa-net-coco-masks": {
        "mask-rcnn-resnet50": (
            "34.2/55.9/36.2/18.2/37.5/46.3 "
            "35.4/57.4/37.8/17.1/38.6/51.8 "
            "35.6/58.1/37.7/17.6/39.0/51.8 "
            "34.9/56.9/37.0/19.1/38.4/47.3 "
            "36.1/58.7/38.2/19.4/39.4/49.0"
        ),
        "mask-rcnn-resnet101": (
            "35.9/57.7/38.4/19.2/39.7/49.7 "
            "36.8/59.3/39.2/17.2/40.3/53.6 "
            "37.4/59.9/39.8/18.1/41.1/54.1 "
            "36.9/59.3/39.4/20.0/40.8/50.1 "
            "38.0/60.0/40.3/20.8/41.2/51.7"
        ),
    },
    "sa-net-imagenet": {
        "resnet50": (
            "76.384/92.908 77.462/93.696 77.626/93.660 76.898/93.402 77.584/93.664 77.480/93.680 77.724/93.798"
        ),
        "resnet101": (
            "78.200/93.906 78.468/94.102 78.354/94.064 78.218/94.018 78.798/94.368 78.650/94.340 78.960/94.492"
        ),
    },
}


@cache
def packaged(name: str) -> PublishedTable:
    return load_table(name)


@cache
def recipe_of(name: str) -> Recipe:
    recipe = Cell("row", "column", (), recipe=name).full_recipe
    assert recipe is not None
    return recipe


@cache
def count_parameters(model: str) -> int:
    """Counts the parameters of a recipe's model, given as JSON."""
    with torch.device("meta"):  # without weights
        network = make_model(Recipe(model=ModelRecipe(**json.loads(model))), 10, pretrained=False)
    return sum(parameter.numel() for parameter in network.parameters())


def all_cells() -> list[Cell]:
    return [cell for name in NAMES for cell in packaged(name).cells.values()]


def cells_with_recipes(name: str) -> list[Cell]:
    cells = list(packaged(name).cells.values())
    assert all(cell.recipe for cell in cells)
    return [cell for cell in cells if cell.recipe]


def equals_printed(value: float, printed: str) -> bool:
    """Whether a value equals the printed one, which may have fewer decimals."""
    decimals = len(printed.partition(".")[2])
    return abs(value - float(printed)) <= 0.5 * 10**-decimals + 1e-9


def test_the_packaged_tables_are_listed() -> None:
    assert table_names() == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_table_names_its_source(name) -> None:
    table = packaged(name)
    assert table.name == name
    assert re.search(r"\(arXiv \d{4}\.\d{5}\)", table.source)
    assert table.cells
    assert table.comparisons
    numbers = [cell for cell in table.cells.values() if any(value is not None for value in cell.published)]
    assert bool(numbers) == (name not in UNPUBLISHED)
    assert all(cell.checked for cell in numbers)


@pytest.mark.parametrize("name", FIGURES)
def test_published_values_match_the_papers(name) -> None:
    table = packaged(name)
    assert list(table.rows) == list(FIGURES[name])
    for row, line in FIGURES[name].items():
        assert len(line.split()) == len(table.columns)
        for column, figures in zip(table.columns, line.split(), strict=True):
            expected = tuple(None if figure == "-" else float(figure) for figure in figures.split("/"))
            assert table.cells[row, column].published == expected, (row, column)


def test_metrics_statistics_and_numbers_of_runs() -> None:
    assert [metric.name for metric in packaged("sa-net-imagenet").metrics] == ["top1", "top5"]
    assert [metric.name for metric in packaged("attention-transfer-imagenet").metrics] == ["top1_error", "top5_error"]
    at = packaged("attention-transfer-cifar10")
    assert ([metric.name for metric in at.metrics], at.statistic, at.runs) == (["error"], "median", 5)
    assert packaged("attention-transfer-gradients").runs == 1
    assert ("lsas-se", "se") in packaged("lsas-cifar").comparisons
    assert {against for _, against in at.comparisons} == {"student"}


def test_published_values_show_the_claimed_gains() -> None:
    for name in NAMES:
        for cell in packaged(name).cells.values():
            for metric, value in zip(packaged(name).metrics, cell.published, strict=True):
                assert value is None or 0 < value < (400 if metric.is_cost else 100)
    for name in ("lsas-cifar", "lsas-imagenet", "attention-transfer-cifar10"):
        table = packaged(name)
        for row in table.rows:
            for column, against in table.comparisons:
                one, other = table.cells[row, column].published[0], table.cells[row, against].published[0]
                assert one is None or (one > other) == table.metrics[0].higher_is_better, (row, column)
    sa = packaged("sa-net-imagenet").cells
    gain = sa["resnet50", "shuffle"].published[0] - sa["resnet50", "plain"].published[0]
    assert gain == pytest.approx(1.34)  # as the abstract says
    gains = [2.3, 2.5, 2.1, 2.2, 1.9, 2.6, 1.9, 2.1]  # printed beside the values of shuffle attention
    rows = [(packaged(name).cells, row) for name in DETECTION for row in packaged(name).rows]
    for (cells, row), expected in zip(rows, gains, strict=True):
        assert cells[row, "shuffle"].published[0] - cells[row, "plain"].published[0] == pytest.approx(expected)


def test_the_same_network_has_the_same_value_everywhere() -> None:
    values: dict[tuple[str, str], set] = {}
    for name in NAMES:
        for cell in packaged(name).cells.values():
            if cell.recipe and cell.published[0] is not None:
                cells = [cell] if cell.teacher is None else [cell, packaged(name).cells[cell.row, cell.teacher]]
                key = json.dumps([(one.recipe, {**one.overrides, "source": ""}) for one in cells])
                values.setdefault((packaged(name).metrics[0].name, key), set()).add(cell.published)
    assert all(len(published) == 1 for published in values.values())


@pytest.mark.slow
def test_every_cell_has_its_own_recipe() -> None:
    for name in NAMES:
        for cell in cells_with_recipes(name):
            assert cell.recipe in recipes.names()
            assert cell.full_recipe is not None  # loading checks the recipe
            assert cell.stem == (f"{cell.row}-{cell.column}" if cell.overrides else Path(cell.recipe).name)
        for row in packaged(name).rows:
            used = [f"{cell.recipe} {cell.overrides}" for cell in cells_with_recipes(name) if cell.row == row]
            assert len(set(used)) == len(used), (name, row)


@pytest.mark.slow
def test_recipes_with_equal_file_names_are_equal() -> None:
    first: dict[str, Recipe] = {}
    for name in recipes.names():
        recipe = replace(recipe_of(name), source="")
        # Two papers may share a run.
        assert first.setdefault(Path(name).name, recipe) == recipe, name


@pytest.mark.slow
def test_cells_and_recipes_name_the_same_teacher() -> None:
    student_count = 0
    for name in NAMES:
        table = packaged(name)
        for cell in cells_with_recipes(name):
            recipe = cell.full_recipe
            runs = [Path(one).name for one in recipe.transfer.teachers if one.startswith("runs/")]
            assert bool(runs) == (cell.teacher is not None), (name, cell.row, cell.column)
            if cell.teacher is None:
                continue
            student_count += 1
            teacher = table.cells[cell.row, cell.teacher]
            assert runs == [f"{Path(teacher.recipe).name}-seed0"]
            teacher_recipe = teacher.full_recipe
            assert teacher_recipe.transfer.teachers == ()
            assert teacher_recipe.data == recipe.data
            sizes = [count_parameters(json.dumps(asdict(one.model))) for one in (recipe, teacher_recipe)]
            assert sizes[0] < sizes[1], (name, cell.row, cell.column)
    assert student_count > 30


@pytest.mark.slow
def test_recipes_of_a_row_share_data_and_schedule() -> None:
    for name in NAMES:
        table = packaged(name)
        for row in table.rows:
            loaded = [cell.full_recipe for cell in cells_with_recipes(name) if cell.row == row]
            if name == "distillation-cifar100":
                slow = [recipe.model.name.startswith(("mobilenet", "shufflenet")) for recipe in loaded]
                assert [recipe.optimizer.lr for recipe in loaded] == [0.01 if is_slow else 0.05 for is_slow in slow]
                loaded = [replace(recipe, optimizer=replace(recipe.optimizer, lr=0.05)) for recipe in loaded]
            settings = [(recipe.data, recipe.schedule, recipe.optimizer, recipe.augmentation) for recipe in loaded]
            if name == "attention-transfer-gradients":  # whose teacher has the settings of table 1
                assert [setting for setting in settings if setting != settings[0]] == [settings[-1]]
            else:
                assert all(setting == settings[0] for setting in settings), (name, row)


@pytest.mark.slow
def test_recipes_name_the_values_of_their_cells() -> None:
    for name in NAMES:
        for cell in cells_with_recipes(name):
            source = recipe_of(cell.recipe).source
            named = re.findall(r"\b(\d+(?:\.\d+)?)%", source)
            value = cell.published[0]
            if value is not None and not cell.overrides:
                assert any(equals_printed(value, percentage) for percentage in named), (name, cell.row, cell.column)
            if name in UNPUBLISHED:
                assert not named
                assert "no value is published" in source


def test_readmes_name_the_values_of_the_tables() -> None:
    values: dict[str, set[float]] = {}
    for cell in all_cells():
        if cell.recipe and cell.published[0] is not None:
            values.setdefault(cell.recipe, set()).add(cell.published[0])
    needed = {(cell.recipe, cell.published[0]) for cell in all_cells() if cell.recipe and not cell.overrides}
    listed = set()
    for path in recipes.FOLDER.glob("*/README.md"):
        for line in path.read_text().splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not line.startswith("|") or len(cells) < 3:
                continue
            for stem in re.findall(r"`([\w-]+)\.yaml`", cells[2]):
                recipe = f"{path.parent.name}/{stem}"
                if recipe in values:
                    named = [value for value in values[recipe] if equals_printed(value, cells[1].partition(" / ")[0])]
                    assert named, line
                    listed |= {(recipe, value) for value in named}
    assert listed >= {(recipe, value) for recipe, value in needed if value is not None}


def test_every_published_recipe_is_in_a_table() -> None:
    used = {cell.recipe for cell in all_cells()}
    for name in recipes.names():
        if not name.startswith("modern/") and "%" in recipe_of(name).source:
            assert name in used, name
    assert {name for name in recipes.names() if name.startswith("builtin/")} <= used


def test_readmes_name_existing_tables_and_rows() -> None:
    named = set()
    for path in recipes.FOLDER.glob("*/README.md"):
        text = " ".join(path.read_text().split())
        for table, row in re.findall(r"regard (?:table|reproduce) ([\w-]+)(?: --rows ([\w-]+))?", text):
            assert not row or row in packaged(table).rows
            named.add((path.parent.name, table))
    assert {folder for folder, _ in named} >= {"attention-transfer", "builtin", "lsas", "sa-net"}


def test_the_built_in_table_is_short_and_needs_no_download() -> None:
    for cell in packaged("builtin").cells.values():
        recipe = recipe_of(cell.recipe)
        assert (recipe.data.name, recipe.data.folder, recipe.data.download) == ("clutter", None, False)
        assert recipe.schedule.epochs * recipe.data.options["train"] <= 40_000
        assert count_parameters(json.dumps(asdict(recipe.model))) < 100_000


# Custom tables

GOOD = """
title: Mine
metrics: [top1, top5]
columns: {small: Small, large: Large, taught: Taught}
comparisons: [[taught, small]]
rows:
  16:
    title: Sixteen
    small: {published: [90, null], recipe: attention-transfer/wrn-16-1}
    taught: {published: [91.5, 99], recipe: my/taught.yaml, teacher: large, checked: false, note: by hand}
    large: {recipe: attention-transfer/wrn-16-2, overrides: {model.name: wrn-40-2, schedule.epochs: 300}}
  32:
    title: Thirty-two
    small: {}
notes: [Nothing.]
"""


@pytest.fixture
def write_table(tmp_path):
    """write_table(text) -> the path of a table file with this text."""

    def write(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write


def test_a_custom_table_is_loaded(write_table, tmp_path) -> None:
    table = load_table(write_table(GOOD))
    assert (table.name, table.title, table.source, table.statistic, table.runs) == ("mine", "Mine", "", "single", None)
    assert table.rows == {"16": "Sixteen", "32": "Thirty-two"}
    assert list(table.cells) == [("16", "small"), ("16", "large"), ("16", "taught"), ("32", "small")]
    taught = table.cells["16", "taught"]
    assert (taught.published, taught.checked, taught.teacher, taught.note) == ((91.5, 99.0), False, "large", "by hand")
    assert table.cells["16", "small"].published == (90.0, None)
    assert table.cells["16", "large"].published == (None, None)
    assert table.cells["32", "small"].full_recipe is None
    assert table.cells["32", "small"].stem is None
    assert table.notes == ("Nothing.",)


def test_a_cell_overrides_fields_of_its_recipe(write_table) -> None:
    large = load_table(write_table(GOOD)).cells["16", "large"]
    assert large.stem == "16-large"
    assert large.full_recipe.source == "; Sixteen, Large"
    assert (large.full_recipe.model.name, large.full_recipe.schedule.epochs) == ("wrn-40-2", 300)
    assert large.full_recipe.model.options == recipe_of("attention-transfer/wrn-16-2").model.options
    wrong = load_table(write_table(GOOD.replace("schedule.epochs", "schedule.epoch"))).cells["16", "large"]
    with pytest.raises(InputError, match=r"^[^\n]*row 16, large: [^\n]*schedule\.epoch[^\n]*$"):
        _ = wrong.full_recipe


def test_custom_recipes_are_found_beside_the_table(write_table, tmp_path, monkeypatch) -> None:
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "taught.yaml").write_text("schedule: {epochs: 3, milestones: []}\n")
    path = write_table(GOOD)
    monkeypatch.chdir("/")  # not relative to the working directory
    taught = load_table(path).cells["16", "taught"]
    assert taught.stem == "taught"
    assert taught.full_recipe.schedule.epochs == 3
    assert load_table(str(path)).cells["16", "small"].full_recipe == recipe_of("attention-transfer/wrn-16-1")


def test_a_missing_recipe_is_an_error_when_loaded(write_table) -> None:
    cells = load_table(write_table(GOOD.replace("transfer/wrn-16-2", "transfer/wrn-16-3"))).cells
    with pytest.raises(InputError, match=r"^[^\n]*mine\.yaml: row 16, large: there is no recipe file [^\n]*$"):
        _ = cells["16", "large"].full_recipe
    with pytest.raises(InputError, match=r"^[^\n]*mine\.yaml: row 16, taught: [^\n]*my/taught\.yaml[^\n]*$"):
        _ = cells["16", "taught"].full_recipe
    with pytest.raises(InputError, match=r"^row r, c: there is no recipe file nope, and none of that name"):
        _ = Cell("r", "c", (None,), recipe="nope").full_recipe
    named = replace(cells["16", "small"], file="")
    assert named == cells["16", "small"]  # the file does not matter for equality


def test_rows_are_selected_by_key(write_table) -> None:
    table = load_table(write_table(GOOD))
    assert table.only(None) is table
    selected = table.only(["32"])
    assert (list(selected.rows), list(selected.cells)) == (["32"], [("32", "small")])
    assert (selected.columns, selected.title, selected.comparisons) == (table.columns, table.title, table.comparisons)
    assert list(table.only(["32", "16"]).rows) == ["16", "32"]
    with pytest.raises(InputError, match="unknown row of mine '64'; known: 16, 32"):
        table.only(["64"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: Mine", "", r"a table lacks title"),
        ("title: Mine", "titel: Mine", r"unknown field of a table 'titel' \(did you mean 'title'\?\)"),
        ("title: Sixteen", "", r"row 16 lacks title"),
        ("    small: {}", "    smal: {}", r"unknown field of row 32 'smal' \(did you mean 'small'\?\)"),
        ("    small: {}", "    small: 91.5", r"row 32, small is 91\.5; expected fields with values"),
        ("note: by hand", "not: by hand", r"unknown field of row 16, taught 'not' \(did you mean 'note'\?\)"),
        ("[91.5, 99]", "91.5", r"row 16, taught: published is 91\.5; expected 2 numbers"),
        ("[91.5, 99]", "[91.5]", r"row 16, taught: published is \[91\.5\]; expected 2 numbers"),
        ("[91.5, 99]", "[91.5, high]", "row 16, taught: published is 'high'; expected top-5, %, from 0 to 100"),
        ("[91.5, 99]", "[91.5, true]", "row 16, taught: published is True; expected top-5, %, from 0 to 100"),
        ("teacher: large", "teacher: huge", r"row 16, taught: its teacher is in column 'huge', which the row does not"),
        ("[top1, top5]", "[top1, top10]", r"unknown metric 'top10' \(did you mean 'top1'\?\); known: accuracy, "),
        ("[[taught, small]]", "[[tought, small]]", r"unknown column in comparisons 'tought' \(did you mean 'taught'"),
        ("metrics:", "statistic: mode\nmetrics:", r"unknown statistic 'mode'[^\n]*; known: mean, median, single"),
        ("{small: Small, large: Large, taught: Taught}", "[small]", r"columns is \['small'\]; expected fields with"),
        ("title: Mine", "title: {", r"is no YAML: "),
    ],
)
def test_mistakes_in_a_table_are_a_one_line_error(write_table, old, new, message) -> None:
    assert GOOD.count(old) == 1
    path = write_table(GOOD.replace(old, new))
    with pytest.raises(InputError, match=message) as error_info:
        load_table(path)
    assert str(error_info.value).startswith(str(path))
    assert "\n" not in str(error_info.value)


@pytest.mark.parametrize("text", ["", "- title", "title", "\0"])
def test_files_without_a_table_are_a_one_line_error(write_table, text) -> None:
    with pytest.raises(InputError, match=r"^[^\n]*mine\.yaml[^\n]*$"):
        load_table(write_table(text))


def test_a_teacher_without_a_cell_is_an_error(write_table) -> None:
    path = write_table(re.sub("    large: {.*}\n", "", GOOD))
    with pytest.raises(InputError, match="its teacher is in column 'large', which the row does not have"):
        load_table(path)


def test_missing_tables_are_an_error(tmp_path) -> None:
    with pytest.raises(InputError, match=r"^unknown table 'lsas'.*; known: attention-transfer-cifar10, "):
        load_table("lsas")
    with pytest.raises(InputError, match=r"^there is no table file .*none\.yaml$"):
        load_table(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("comparisons:", "comparisons: None is not a pair"),
        ("comparisons: [ab]", "'ab' is not a pair"),
        ("comparisons: [[a, a]]", "is not a pair"),
        ("comparisons: [[a, c]]", "unknown column in comparisons 'c'"),
        ("metrics:", "metrics is None"),
        ("metrics: []", "metrics is empty"),
        ("metrics: accuracy", "metrics is 'accuracy'; expected a list"),
        ("notes: text", "notes is 'text'; expected a list"),
        ("runs: five", "runs is 'five'"),
        ("checked: 'no'", "checked is 'no'; expected true or false"),
    ],
)
def test_fields_of_a_wrong_type_are_an_error(extra: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"title: t\ncolumns: {{a: A, b: B}}\nrows: {{r: {{title: R, a: {{published: 1}}}}}}\n{extra}\n")
    with pytest.raises(InputError) as error_info:
        load_table(path)
    assert message in str(error_info.value) and "\n" not in str(error_info.value)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("{teacher: [b]}", "which the row does not have"),
        ("{teacher: title}", "which the row does not have"),
        ("{teacher: a}", "it is its own teacher"),
        ("{published: .nan}", "from 0 to 100"),
        ("{recipe: [x]}", "expected the name or the path"),
        ("{recipe: x, overrides: 3}", "overrides is 3"),
        ("{overrides: {model.name: x}}", "without a recipe"),
    ],
)
def test_cells_of_a_wrong_type_are_an_error(cell: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"title: t\ncolumns: {{a: A, b: B}}\nrows: {{r: {{title: R, a: {cell}, b: {{published: 1}}}}}}\n")
    with pytest.raises(InputError, match="row r, a") as error_info:
        load_table(path)
    assert message in str(error_info.value)
