"""Explanations: how much each piece of an input contributed to the model's answer.

A process of its own explains, so that no prediction waits for it; see process.py. No protocol is known here.
"""
