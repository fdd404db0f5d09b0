"""`report`: records as one HTML page that opens offline, on a phone, in the dark and on paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.page.card import decide as decide
    from fractionate.page.carried import read_page as read_page
    from fractionate.page.decisions import Card as Card
    from fractionate.page.decisions import Decision as Decision
    from fractionate.page.document import report as report
    from fractionate.page.paper import figures as figures
    from fractionate.page.reading import read_record as read_record
    from fractionate.page.reading import read_records as read_records
else:
    __getattr__, __dir__, __all__ = exports(__name__)
