"""Fuzzers: programs that look for inputs which break the server, each with a budget of time.

They are no tests: `make fuzz` runs them.
"""
