"""A cluster for this machine: kind where Docker is there, else a real Kubernetes node built from its Go modules.

Only the standard library: it runs before any virtual environment exists (`PYTHONPATH=tests python3 -m localcluster`).
"""
