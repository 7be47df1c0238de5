"""Stand-alone training and evaluation of one architecture (SPEC §4)."""
