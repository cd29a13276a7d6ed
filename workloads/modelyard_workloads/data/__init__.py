"""Data sources and the order in which they are read. Everything here is deterministic and can be resumed."""
