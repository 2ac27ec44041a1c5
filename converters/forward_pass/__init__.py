"""Building and checking the graph of a model that keeps no state between two requests."""
