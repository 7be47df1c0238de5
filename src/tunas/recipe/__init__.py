"""How weights are learned, shared by search and train: optimiser, schedule, published settings."""
