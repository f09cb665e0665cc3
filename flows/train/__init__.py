"""The flow `train-ticker` and the stages that it calls."""
