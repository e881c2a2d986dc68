"""Weighted forms of the metrics: a plan from ranks and accuracies, then values of many resamples at once."""
