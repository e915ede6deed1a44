"""`regard groups`: measures how strongly each group of a layer's channels supports a class."""

from __future__ import annotations

from collections.abc import Sequence

from regard.cli.command import Command
from regard.cli.evaluation import ClassifierEvaluation
from regard.cli.inputs import evaluations, open_networks
from regard.cli.options import make_parser
from regard.cli.studies import Sample, add_study_options, folder_for, sample, write_study
from regard.errors import InputError
from regard.formatting import counted
from regard.maps.channel_groups import group_means
from regard.parser import Parser, strings
from regard.report.studies import CLASSES
from regard.studies.groups import Target, group_scores


def parser() -> Parser:
    parser = make_parser(
        "groups",
        "Measures how strongly each group of a layer's channels supports a class: the image is masked with the group's "
        "mean activation, and the score is the probability of the class on the masked image (SA-Net's group "
        "activation), averaged over the images of the class. Each image takes one forward pass per group. Writes "
        "groups.html and groups.json to a folder (--out).",
    )
    parser.add_argument("--layer", type=strings, required=True, help="layer to study, or one for each network")
    parser.add_argument("--groups", type=int, default=64, help="number of groups to divide the channels into")
    parser.add_argument(
        "--target",
        choices=["label", "predicted"],
        help="class whose probability to measure: the label, or the prediction for the whole image; if not given the "
        "label, where it is an output of the networks",
    )
    add_study_options(parser, classes=f"{CLASSES}, spread evenly,", per_class=20)
    return parser


def main(command: Command) -> None:
    options = command.options
    networks = evaluations(command, open_networks(command, options.models))
    layers = _layers(networks, options.layer)
    images = sample(networks, max_classes=CLASSES)
    folder = folder_for("groups", options.out, images)
    target = _target(networks, images, options.target)
    for network, layer in zip(networks, layers, strict=True):  # fails before the long computation
        first = next(network.batches(images.indices))
        group_means(network.model, layer, first.images[:1], options.groups)
        network.release()
    results = {}
    masked = len(images.indices) * options.groups
    for network, layer in zip(networks, layers, strict=True):
        with command.progress(network.name, "masked images", masked) as update:
            results[network.name] = group_scores(
                network.model,
                layer,
                network.batches(images.indices),
                options.groups,
                target=target,
                outputs=network.label_outputs,
                class_names=network.images.classes,
                batch_size=network.batch_size,
                progress=update,
            )
        network.release()
    groups = [{"network": name, **record} for name, result in results.items() for record in result.group_records()]
    write_study(command, "groups", results, folder, images, target=target, groups=groups)


def _layers(networks: Sequence[ClassifierEvaluation], layers: list[str]) -> list[str]:
    """The layer of each network."""
    if len(layers) not in (1, len(networks)):
        number = counted(len(networks), "network")
        raise InputError(f"--layer names {len(layers)} layers for {number}; give one, or one for each")
    return layers * len(networks) if len(layers) == 1 else layers


def _target(networks: Sequence[ClassifierEvaluation], images: Sample, target: Target | None) -> Target:
    """The class whose probability is measured, the same for all networks."""
    for network in networks:
        missing = [label for label in images.labels if network.label_outputs[label] < 0]
        if missing and target is None:
            return "predicted"
        if missing and target == "label":
            name = network.images.classes[missing[0]]
            raise InputError(f"{network.name} has no output for class {name!r}; leave --target out")
    return target or "label"
