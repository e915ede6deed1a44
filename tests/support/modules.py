"""Options of attention modules in tests."""

# Options with which each module fits 8 channels and has a gate and hidden layers wider than 1.
OPTIONS = {
    "bam": {"reduction": 4},
    "cbam": {"reduction": 4, "kernel_size": 3},
    "gc": {"reduction": 2, "fusion": "scale"},
    "se": {"reduction": 2},
    "sge": {"groups": 4},
    "shuffle": {"groups": 2},
    "spa": {"reduction": 4},
    "triplet": {"kernel_size": 3},
}
