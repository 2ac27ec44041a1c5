"""Tool calls: what a request offers, and what a model writes."""
