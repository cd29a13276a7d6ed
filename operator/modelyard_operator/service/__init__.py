"""ModelService: its spec, the Deployments it becomes, and what is said about them."""
