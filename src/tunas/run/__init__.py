"""What a run remembers: its directory, checkpoints and event files; and what it runs on."""
