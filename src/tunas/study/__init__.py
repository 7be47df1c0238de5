"""Random baselines, and searched against random."""
