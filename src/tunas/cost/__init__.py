"""What an architecture costs."""

from tunas.cost.catalog import load_cost_model
from tunas.cost.model import CostModel, CostTerm

__all__ = ["CostModel", "CostTerm", "load_cost_model"]
