"""Heavy stages: as requests, in this process or on the GPU work pool."""
