"""The gateway's own types, and the port through which it asks models.

Everything above speaks of models in these types. They know nothing of protobuf, of Triton or of
HTTP: `control_plane.triton` implements the port, and `fake` does so in memory.
"""
