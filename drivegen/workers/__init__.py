"""Many jobs, one at a time each, in this process, in local ones, or as tasks of Ray."""

from drivegen.workers.crew import Crew, Outcome, carry_out
from drivegen.workers.here import Here
from drivegen.workers.later import Later
from drivegen.workers.local import LocalCrew, early

__all__ = ["Crew", "Here", "Later", "LocalCrew", "Outcome", "carry_out", "early"]
