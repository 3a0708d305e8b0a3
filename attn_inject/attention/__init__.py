"""A name becomes a module: what an attention is (`base`), all of them by name (`registry`), one paper a file.

`gating` is what the pure channel gates share, `layers`, `statistics` and `averaging` what others do;
`timm_made` are timm's own; `catalogue` is the table that people see.
"""
