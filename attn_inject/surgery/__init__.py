"""A `Plan` carried out and checked: `inject` (a graph), `attach` (the model's own class), `apply` and `verify`."""
