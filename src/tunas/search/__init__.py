"""How the best architecture is found."""
