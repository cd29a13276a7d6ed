"""`make demo`: from a bare machine to predictions of a model that was trained and is served on Kubernetes."""
