"""Plots and the static page, from stored scores alone: nothing here computes a score."""
