"""Programs that are checked by mypy and pyright and never run: one file per package."""
