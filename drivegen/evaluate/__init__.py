"""How well generated images follow their conditions, judged by a referee trained on renders of the city."""

from drivegen.evaluate.metrics.frechet import frechet_distance
from drivegen.evaluate.metrics.scores import Estimate, bootstrap
from drivegen.evaluate.referee import GROUPS, Referee, Verdict, load

__all__ = ["GROUPS", "Estimate", "Referee", "Verdict", "bootstrap", "frechet_distance", "load"]
