"""The classic export: any model of transformers, with fixed shapes but for the axes named."""
