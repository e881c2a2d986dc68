"""The engine: networks in, stored scores out."""
