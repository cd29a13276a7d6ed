"""The modelyard operator: ModelTraining and ModelService on Kubernetes.

`sync(parent, children, now) -> Plan` (one per kind) is pure and holds the whole domain. `watch` brings events in,
`reconcile` orders the effects, `cluster` carries the writes out.
"""
