"""The settings of a run: its configuration, the explicit files of a stage, and the scope of a scheduled run."""
