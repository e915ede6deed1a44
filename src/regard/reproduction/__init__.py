"""Trains the runs that a table lacks, on this machine or on a Ray cluster.

- `make_plan`: lists the runs that a table needs, one `Job` each, teachers before students, and whether they exist.
- `estimate`: the time that they need, from measured rates.
- `run_plan`: runs their commands, resumes interrupted runs and retries failed ones.
- `LocalExecutor`, `RayExecutor`: where the commands run.
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
