"""Structured output: which tokens a text may go on with, by llguidance.

https://github.com/guidance-ai/llguidance
"""
