"""Names of operations, and of torch's files of layers, by what they do to a feature map: what `operations` knows."""

from __future__ import annotations

# torch.nn files whose modules are affine in their input (max pooling stands with the pools, as in the papers'
# shortcuts).
AFFINE_HOMES = {
    f"torch.nn.modules.{home}"
    for home in (
        "batchnorm", "channelshuffle", "container", "conv", "dropout", "flatten", "fold", "instancenorm", "linear",
        "normalization", "padding", "pixelshuffle", "pooling", "upsampling",
    )
}  # fmt: skip

CONVOLUTIONS = {
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution",
    "_conv_forward", "deform_conv2d", "cudnn_convolution",
}  # fmt: skip
UPSAMPLINGS = {
    "interpolate", "upsample", "upsample_bilinear", "upsample_nearest", "pixel_shuffle", "grid_sample",
    "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "upsample_linear1d", "upsample_bilinear2d",
    "upsample_trilinear3d", "upsample_bicubic2d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
}  # fmt: skip
ADDITIONS = {"add", "add_", "iadd", "__add__", "__iadd__", "__radd__"}
# input + number * first * second: with one factor that is no map, an addition that scales its branch. So is
# input + weight * (end - input).
SCALED_ADDITIONS = {"addcmul", "addcmul_", "lerp", "lerp_"}
SUBTRACTIONS = {"sub", "sub_", "isub", "subtract", "subtract_", "rsub"}
CONCATENATIONS = {"cat", "concat", "concatenate"}
# Random or deterministic scalings that pass the map through: the gate goes before them.
DROPS = {
    "dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout",
    "stochastic_depth", "drop_block2d", "drop_block3d", "drop_path", "drop_block_2d", "drop_block_fast_2d",
}  # fmt: skip
MULTIPLICATIONS = {"mul", "mul_", "imul", "multiply", "multiply_", "__mul__", "__imul__", "__rmul__"}
DIVISIONS = {"div", "div_", "truediv", "itruediv", "divide", "true_divide"}
# Views and moves: the same numbers in another order.
REARRANGEMENTS = {
    "permute", "transpose", "swapaxes", "movedim", "moveaxis", "contiguous", "to", "type_as", "float", "clone", "view",
    "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "roll", "detach", "requires_grad_", "t",
    "view_as", "reshape_as", "expand_as", "broadcast_to", "type", "half", "bfloat16", "double", "rearrange", "alias",
    "as_tensor", "asarray", "lift_fresh", "_to_copy", "_unsafe_view",
}  # fmt: skip
# Casts to what a network of a smaller type is added up in; in one of this type already they do nothing.
WIDENINGS = {"float", "double"}
SLICES = {
    "getitem", "__getitem__", "chunk", "split", "narrow", "tensor_split", "unbind", "select", "index_select", "slice",
    "split_with_sizes",
}  # fmt: skip
# Operators of exported graphs that give a map first, and then what belongs to it: statistics, indices.
WITH_MORE = {
    "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "native_batch_norm", "native_layer_norm",
    "native_group_norm", "native_dropout", "max_pool2d_with_indices", "max_pool3d_with_indices",
}  # fmt: skip
AFFINE = (
    WITH_MORE | CONVOLUTIONS | UPSAMPLINGS | ADDITIONS | SUBTRACTIONS | CONCATENATIONS | DROPS | REARRANGEMENTS | SLICES
    | {
        "neg", "linear", "addmm", "batch_norm", "layer_norm", "group_norm", "instance_norm",
        "rms_norm", "local_response_norm", "normalize", "avg_pool1d", "avg_pool2d", "avg_pool3d",
        "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d",
        "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "lp_pool2d", "pad", "pixel_unshuffle",
        "channel_shuffle", "mean", "sum", "stack", "zeros_pad", "unfold", "fold", "avg_pool2d_same", "flip", "bias_add",
        "index_assign", "fake_quantize_per_tensor_affine", "quantize_per_tensor", "dequantize", "repeat", "index_put",
        "repeat_interleave", "tile", "identity", "written",
        # As operators of an exported graph.
        "constant_pad_nd", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    }
)  # fmt: skip
# Operations that look only at a value's shape, dtype or device, or make a new tensor like it.
SHAPE_ONLY = {
    "size", "dim", "ndimension", "numel", "new", "new_empty", "new_zeros", "new_ones", "new_full",
    "new_tensor", "zeros_like", "ones_like", "empty_like", "rand_like", "randn_like", "full_like", "is_floating_point",
    "get_device", "sym_size", "_assert", "len", "_has_torch_function", "eq", "isinstance",
}  # fmt: skip

# Operations that ask a second value only what type or shape the first is to have.
AS_ANOTHER = {"to", "type_as", "view_as", "reshape_as", "expand_as"}
