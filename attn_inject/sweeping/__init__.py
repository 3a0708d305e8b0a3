"""Many models and attentions become one table: on one machine or on a Ray cluster, and again after an interruption."""
