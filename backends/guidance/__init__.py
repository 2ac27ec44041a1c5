"""Structured output: a grammar says which tokens may come next, and llguidance evaluates it.

https://github.com/guidance-ai/llguidance
"""
