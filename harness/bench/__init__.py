"""What it costs: passes, memory, loading and counting."""
