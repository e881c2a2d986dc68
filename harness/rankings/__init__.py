"""What is derived from stored scores: vectors over a population, aggregates, learned rankings."""
