"""Fuzzers with a budget of time. They are no tests: `make fuzz` runs them."""
