"""Generates whole labelled datasets from others: recipes, plans, frames, tables, checks."""

from drivegen.synthesis import plan
from drivegen.synthesis.plan import Plan
from drivegen.synthesis.recipe import Recipe
from drivegen.synthesis.run import synthesize
from drivegen.synthesis.verify import verify

__all__ = ["Plan", "Recipe", "plan", "synthesize", "verify"]
