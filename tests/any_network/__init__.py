"""Networks as users bring them, each beside the same network of plain modules and beside written-out references."""
