"""Random networks whose true sites are known by construction, to be found by rules that know nothing of it.

`grow(seed)` gives a network and the paths of the blocks that end at a site; `check(seed)` asserts that the library
finds just these, that attention which starts as the identity changes no bit, and that it acts and learns otherwise.

    python -m tests.random_networks --seeds 5000

`parts` are what blocks are made of, `adding` and `mixing` the blocks with a site, `lookalikes` what looks like one and
is none, `stages` how blocks are held and called, `growing` a whole network.

Left out altogether, since people differ over what is true of them and no structure decides it: the halves that
ShuffleNetV2 joins and shuffles, level skips over stages whose blocks have skips of their own (RoR), pyramids of dilated
convolutions (ASPP), an hourglass whose skip is the identity, and the sum of a projected map and what later stages of
the same resolution made of it, which is a skip add by every rule and a feature pyramid in its author's words.
"""
