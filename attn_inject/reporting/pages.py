"""What can be shown as one HTML page: written to a file, and in a notebook."""

from __future__ import annotations

from html import escape
from pathlib import Path

from ..files.atomic import write_text


class Page:
    """Base of data with a page; subclasses give `_page`, its text."""

    __slots__ = ()

    def _page(self) -> str:
        raise NotImplementedError  # abstract: every page has a view of its own

    def to_html(self, path: str | Path | None = None) -> str:
        """One self-contained HTML page, also written to `path` where one is given.

        Raises:
            CheckpointError: `path` cannot be written.

        """
        page = self._page()
        if path is not None:
            write_text(path, page)
        return page

    def _repr_html_(self) -> str:
        # In a frame of its own, so that the page's styles do not reach the notebook around it.
        page = escape(self._page(), quote=True)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 640px; border: 0"></iframe>'
