"""The Open Inference Protocol v2 over gRPC: an adapter beside `v2.py`, for the same data plane."""
