"""The REST and SSE API: a router for each resource."""
