"""A name becomes a model with its weights.

    text --parsing--> Source --building--> nn.Module
             `--names: what both zoos hold, from a cache      `--sizes: the input it was made for

Parsing imports neither torch nor a zoo when the cache is warm, so that a mistyped name is told at once; building
imports only the zoo that is asked for.
"""
