"""Published networks, one TOML file each, read by `planning.recipe`. Installs as `attn_inject.recipes`."""

from pathlib import Path

FOLDER = Path(__file__).parent
"""Where the files lie."""
