"""ModelTraining: from a spec and the pods observed to the pods, the decisions and the status that follow."""
