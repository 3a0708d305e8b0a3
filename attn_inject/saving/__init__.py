"""A patched model becomes a file (`checkpoint`), and comes back (`loading`); `inspection` says what a file is.

`record` is what stands beside the tensors, `refusals` what a file is not believed, `exported` what others run, on the
inputs of `examples`.
"""
