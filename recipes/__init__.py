"""Published networks, one TOML file each: `attn_inject.planning.recipe` reads them. Installs as `attn_inject.recipes`."""
