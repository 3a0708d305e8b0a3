"""Published networks as plans: one TOML file each, read by `attn_inject.planning.recipe`. Installs as `attn_inject.recipes`."""
