"""ModelService: from a spec, a training and the Deployments observed to servers, traffic and status."""
