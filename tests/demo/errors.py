"""What ends the demo early, in words for the person at the terminal."""


class DemoError(Exception):
    """The message says what went wrong and what to do about it."""
