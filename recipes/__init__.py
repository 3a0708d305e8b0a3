"""Published networks, one TOML file each, read by `planning.recipe`. Installs as `attn_inject.recipes`."""
