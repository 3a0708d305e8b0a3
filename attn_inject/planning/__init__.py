"""Sites and wishes become a `Plan`: the caller's `choices`, the plan itself, and both as text. No torch is
imported by this line: a recipe or a plan can be read without it.
"""
