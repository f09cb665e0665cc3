"""Every side effect: the artifact store, the stages as Prefect tasks, MLflow runs and registry, published folders."""
