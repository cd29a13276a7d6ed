"""The router: a pass-through HTTP/1.1 proxy that divides, copies and holds the requests of one ModelService."""
