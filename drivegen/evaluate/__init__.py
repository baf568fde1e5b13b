"""How well generated images follow their conditions, judged by a referee trained on renders of the city."""

from drivegen.evaluate.frechet import frechet_distance
from drivegen.evaluate.referee import GROUPS, Referee, Verdict, load
from drivegen.evaluate.scores import Estimate, bootstrap

__all__ = ["GROUPS", "Estimate", "Referee", "Verdict", "bootstrap", "frechet_distance", "load"]
