"""What models cost: numbers, no printing.

* `parameters`: what a module holds.
* `flops`: what one operation computes. `counting`: what one forward pass computes and moves, on meta tensors.
* `latency`: two models timed in turns. `shares`: where in a model the time goes.
* `device`: where timings are taken. `samples`: what a list of timings says.
"""
