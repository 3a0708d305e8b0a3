"""Published networks, one TOML file each: `attn_inject.planning.recipe` reads them. Installed as attn_inject.recipes."""
