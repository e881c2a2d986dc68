"""One proxy against the others: stored scores as a table, what is missing scored, differences with intervals."""
