"""Filling tables with runs: what is missing is planned and run, on this machine or on many.

- `make_plan`: the runs that a table needs, `Job` each, teachers before students, and which of them are there.
- `estimate`: what they cost, from measured rates.
- `run_plan`: runs their commands; what was interrupted is resumed, what failed is tried again.
- `LocalExecutor`, `RayExecutor`: where they run.
"""

from regard.reproduction.cluster import RayExecutor
from regard.reproduction.cost import Cost, Rate, estimate
from regard.reproduction.local import LocalExecutor
from regard.reproduction.plan import Job, Plan, make_plan
from regard.reproduction.scheduler import Ended, Executor, Outcome, run_plan

__all__ = [
    "Cost",
    "Ended",
    "Executor",
    "Job",
    "LocalExecutor",
    "Outcome",
    "Plan",
    "Rate",
    "RayExecutor",
    "estimate",
    "make_plan",
    "run_plan",
]
