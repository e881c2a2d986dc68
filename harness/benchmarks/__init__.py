"""Benchmarks: stored accuracies with their cards, and importers of official archives."""
