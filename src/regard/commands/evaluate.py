"""`regard evaluate`: accuracy of runs."""

from __future__ import annotations

from regard import bias, data, training
from regard.commands.runs import runs_on_data


def main(arguments: list[str]) -> int:
    parser = training.RecipeParser(
        prog="regard evaluate",
        usage="regard evaluate RUN… [OPTIONS]",
        description="Accuracy of runs on the test images of their data, or of others with the same classes.",
    )
    for run, options, images in runs_on_data(parser, arguments):
        device = training.pick_device(options.device)
        model = run.model(options.weights).to(device)
        score = training.evaluate(model, data.Batches(images, options.batch_size, device=device))
        low, high = bias.wilson(round(score.accuracy * score.images), score.images)
        print(
            f"{run.folder} ({options.weights}) on {images.name} {images.split}: accuracy {score.accuracy:.2%} "
            f"[{low:.2%}, {high:.2%}], loss {score.loss:.4f}, {score.images} images"
        )
    return 0
