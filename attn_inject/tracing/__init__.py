"""A model becomes graphs that run: `prepare`, `alias`, `tracer`, `shapes`; `injected` is the model that runs them."""
