"""Captions of tables and figures, for pages and terminals; `[key]` and `[key|text]` link to the glossary on a page."""

RATES = (
    "Rates are in %, other measures from 0 to 1, each with its [interval|95% interval] below. Accuracy is over all "
    "images that have a label. All other measures are over the images that have a [region] and a CAM that is not a "
    "[constant_map|constant map]."
)
DIFFERENCES = (
    "Each network minus the [reference], each difference with its [interval|95% interval] below; differences of rates "
    "are in percentage points. [p|p values] are two-sided, and [holm|adjusted] together for all comparisons shown."
)
SEEDS = (
    "For a network with several [seeds]: the mean over the seeds and its [interval|95% interval]. For a network with "
    "one seed: the interval over the test images."
)
CAMS = (
    "Each [cam|CAM] is drawn over its image, with its class below and the probability of that class in parentheses. "
    "Lines are the edges of the [focus] and, if the image has one, of the [region]; ✗ marks a wrong prediction."
)
GATES_LEAD = (
    "The [gate|gates] by which attention modules multiply each channel, or the outputs of the modules, averaged over "
    "pixels, by class and depth."
)
GATES = (
    "[eta_squared|Eta squared] is the mean over those channels of a layer that vary; compare it with the value "
    "expected by chance. Median, 5% and 95% are quantiles over the channels' means over all images."
)
GATES_DETAILS = (
    "Top: the mean of every channel, in the order of the layer's output; in layers with more than 64 channels, "
    "neighbours are averaged. Right: the distribution over the channels, on the same scale. Bottom: each class minus "
    "all classes, on one scale for the whole page."
)
GROUPS_LEAD = "How strongly each group of a layer's channels, alone, supports a class: its [group_score]."
GROUPS = (
    "Mean probabilities over the images of a class, in %: for the whole image, and for the image masked by each group "
    "of channels ([group_score]), each with its [interval|95% interval] below. A group whose mean activation is "
    "constant masks nothing, and has no score."
)
COSTS = (
    "Points are means over the [seeds], vertical lines go from the minimum to the maximum. The area of a circle is "
    "proportional to the network's parameters."
)
CURVES = "Thin lines are runs, thick lines their means; bands go from the minimum to the maximum."
GROUPS_DETAILS = (
    "Bars: the [group_score] of each group, with its [interval|95% interval]. Dashed line: the whole image."
)
BIAS = (
    "For each image, the [focus] of a [cam|CAM] is compared with the [region], the pixels of the object. "
    "[position_bias|Position bias]: they do not intersect. [range_bias|Range bias]: they intersect, but the focus is "
    "not inside the region. [inside|Inside]: the focus is inside the region."
)
DETECTIONS = (
    "Each row is a detection instead of an image. Its [region] is the mask of the object that it detects (same class, "
    "boxes with an IoU of at least 0.5), or its own box if it detects no object. [accuracy|Accuracy] is the share of "
    "detections that detect an object. Detectors are compared on the objects that all of them detect."
)
DETECTION_SIZES = (
    "[region|Regions] by COCO's sizes: small below 32 x 32 pixels, medium below 96 x 96, large from there. The region "
    "of a wrong detection is its box, and a box is larger than a mask."
)
UNSCORED = "no accuracy: the labels of the images are not outputs of the network, so its CAMs are of predicted classes"
SIZES = (
    "[region|Regions] by their share of the image's pixels: small below 1/16, medium below 1/4, large from there. "
    "Accuracy is over all images that have a label. All other measures are over the images that have a region and a "
    "CAM that is not a [constant_map|constant map]."
)
INTERVENTIONS = (
    "Accuracy on the original images, and on the same images after the object or the background is removed or "
    "exchanged. Rates are in %, the [drop] in percentage points, each with its [interval|95% interval]. The number of "
    "images may differ, because not every image has an object, a background, and another image of its class. "
    "[p|p values] are [holm|adjusted] together with all other comparisons shown. In the row [background_gap], the "
    "first rate is the accuracy on [mixed_same], the second on [mixed_other]."
)
LOST = (
    "Does position bias matter? The share of right predictions that each intervention makes wrong ([lost]), for images "
    "with [position_bias|position bias] and for images without; the difference is in percentage points. Each has its "
    "[interval|95% interval]. If position bias matters, images with it lose more predictions when the background is "
    "exchanged, and fewer when the object is removed."
)
DROPS = "The [drop] in percentage points, with its [interval|95% interval]; not tested."
CLASSES = (
    "Classes with at least 10 images, those with the highest lower ends of the [interval] of [position_bias|position "
    "bias]. They are extremes among many classes, some of them by chance."
)
THRESHOLDS = "The share of images with each bias, by the [threshold] of the [focus]."
DISTRIBUTIONS = (
    "The distribution of each measure over the images, with its mean at the right. Dotted line: the mean for "
    "[constant_map|constant maps], or for random values."
)
NOTHING_DETECTED = "Nothing is detected with a score of {score} or more; lower it (--score), or train longer."
VERDICTS = (
    "[significant|Significant] and [compatible|compatible with published] follow from the [holm|adjusted p]. "
    "Preliminary: with a [shortened|shortened schedule] or other data."
)
SEED_FIGURES = (
    "Dots and bars: means over [seeds] with their [interval|95% intervals]. Short vertical lines: single seeds. "
    "Diamonds: published values."
)
