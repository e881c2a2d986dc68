"""Charts: what each shows (`definitions`), and how it is drawn to files and in a page (`vega`)."""
