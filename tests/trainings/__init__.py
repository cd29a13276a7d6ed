"""Trainings to test with: a pod's launcher as a process, a task small enough to be trained in a second."""
