"""`/healthz` and `/metrics` over HTTP, for machines."""
