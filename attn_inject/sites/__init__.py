"""Graphs become sites, with reasons. Reads only: one rule or one fact a file, and `reading` for all of it at once."""
