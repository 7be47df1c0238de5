"""What an architecture costs."""

from tunas.cost.model import CostModel, CostTerm, load_cost_model

__all__ = ["CostModel", "CostTerm", "load_cost_model"]
