"""Tables of the page: escaped cells, captions, headers that sort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple


class Column(NamedTuple):
    """One column."""

    title: str
    numeric: bool = False
    hint: str = ""
    """Unit or short explanation, shown small below the title."""


class Cell(NamedTuple):
    """One cell: a figure in HTML that is already escaped, a small second line, and what it sorts by."""

    html: str
    below: str = ""
    key: float | str | None = None
    span: int = 1
    """Columns that it covers."""


def text(value: str, below: str = "") -> Cell:
    """A cell of plain text, sorted by its letters."""
    return Cell(escape(value), escape(below), value.casefold())


def table(
    name: str,
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    *,
    sortable: bool = False,
    stacked: bool = False,
    marked: Sequence[int] = (),
) -> str:
    """A table in a container that scrolls by itself; the first cell of a row is its header.

    A stacked table turns each row into a block on a phone. Its roles are written out, since a browser forgets
    them when a row is no longer displayed as one.
    """
    attributes = (" data-sortable" if sortable else "") + (" class=stacked role=table" if stacked else "")
    head = "".join(_header(column, sortable) for column in columns)
    body = "".join(
        _row(row, columns, marked=number in marked, stacked=stacked) for number, row in enumerate(rows)
    )
    return (
        f'<div class="scroll" role="region" aria-labelledby="{name}-caption" tabindex="0">'
        f'<table id="{name}"{attributes}>'
        f'<caption id="{name}-caption"><span>{escape(caption)}</span></caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def definition_table(name: str, caption: str, groups: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """Two columns of plain text, what and its value, in groups; a group without title has no heading."""
    body = ""
    for title, pairs in groups.items():
        heading = (
            f'<tr><th scope="rowgroup" colspan="2" class="group">{escape(title)}</th></tr>' if title else ""
        )
        rows = "".join(
            f'<tr><th scope="row">{escape(key)}</th><td>{escape(value)}</td></tr>' for key, value in pairs
        )
        body += f"<tbody>{heading}{rows}</tbody>"
    return (
        f'<div class="scroll" role="region" aria-labelledby="{name}-caption" tabindex="0">'
        f'<table id="{name}" class="pairs">'
        f'<caption id="{name}-caption"><span>{escape(caption)}</span></caption>{body}</table></div>'
    )


def _header(column: Column, sortable: bool) -> str:
    kind = ' class="number"' if column.numeric else ""
    hint = f"<small>{escape(column.hint)}</small>" if column.hint else ""
    title = escape(column.title)
    if sortable:
        return f'<th scope="col"{kind} aria-sort="none"><button type="button">{title}</button>{hint}</th>'
    return f'<th scope="col"{kind}>{title}{hint}</th>'


def _row(row: Sequence[Cell], columns: Sequence[Column], *, marked: bool, stacked: bool) -> str:
    cells = "".join(
        _cell(cell, columns[place], is_header=place == 0, stacked=stacked) for place, cell in enumerate(row)
    )
    attributes = (" class=marked" if marked else "") + (" role=row" if stacked else "")
    return f"<tr{attributes}>{cells}</tr>"


def _cell(cell: Cell, column: Column, *, is_header: bool, stacked: bool) -> str:
    attributes = ' scope="row"' if is_header else ""
    attributes += ' class="number"' if column.numeric and cell.span == 1 else ""
    attributes += f' colspan="{cell.span}"' if cell.span > 1 else ""
    attributes += f' data-key="{escape(str(cell.key))}"' if cell.key is not None else ""
    below = f"<small>{cell.below}</small>" if cell.below else ""
    attributes += f' data-label="{escape(column.title)}"' if stacked and not is_header else ""
    attributes += f' role="{"rowheader" if is_header else "cell"}"' if stacked else ""
    tag = "th" if is_header else "td"
    return f"<{tag}{attributes}>{cell.html}{below}</{tag}>"
