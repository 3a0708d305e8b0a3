"""A report or a comparison as people read it. The views show what they are given and compute nothing."""
