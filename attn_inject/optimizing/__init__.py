"""A patched model made fast for inference: separate rewrites, each of which checks its own conditions.

    identity_removal  nodes that do nothing in eval mode
    norm_folding      eval batch norms into the convolutions before them
    early_squeeze     the pool at the input of the last 1x1 convolution, a quarter of the bytes in a bottleneck
    gate_add          gate * branch + shortcut (+ ReLU) without a new map
    gate_kernel       the same and the gate before it in Triton kernels, where there is CUDA

Order matters: folding first lets the others see convolutions where norms stood. `training` is for the train graph, in
which gates keep no map for the backward pass (`gated_norm`) and take the scales after them (`channel_scales`).
"""
