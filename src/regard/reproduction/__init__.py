"""Filling tables with runs: what is missing is worked out and carried out, on this machine or on many.

- `make_plan`: the runs that a table needs, `Job` each, teachers before students, and which of them are there.
- `estimate`: what they cost, from measured rates.
- `carry_out_plan`: runs them; what was interrupted is resumed, what failed is tried again.
- `LocalEngine`, `RayEngine`: where they run.
"""

from regard.reproduction.carrying import Carried, carry_out_plan, duration
from regard.reproduction.cost import Cost, Rate, estimate
from regard.reproduction.engine import Ended, Engine
from regard.reproduction.local import LocalEngine
from regard.reproduction.plan import Job, Plan, make_plan
from regard.reproduction.ray_engine import RayEngine

__all__ = [
    "Carried",
    "Cost",
    "Ended",
    "Engine",
    "Job",
    "LocalEngine",
    "Plan",
    "Rate",
    "RayEngine",
    "carry_out_plan",
    "duration",
    "estimate",
    "make_plan",
]
