"""The content-addressed artifact store, on this machine and shared between machines."""
