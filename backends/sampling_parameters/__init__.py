"""Sampling parameters: what one is, and those that have a file of their own.

A file here declares a parameter and what it does to the logits. A line in
`backends.contract.sampling.SamplingParameters`, the one list, makes it a parameter of every API.
"""
