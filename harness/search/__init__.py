"""Search led by proxies: random, regularised evolution, FreeREA and the decoupled cyclic search.

On a benchmark the scores are read from the store and the outcome is a stored accuracy; on an open space networks
are scored as they are found and the outcome is an architecture.
"""
