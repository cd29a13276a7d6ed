"""Servers to test against: a small model without torch, a server in this process, a server process of its own."""
