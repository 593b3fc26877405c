"""The short table of servers in the README says what the long one says."""

from __future__ import annotations

import pytest

from tests.docs.pages import text_of

SERVERS = ["uvicorn", "Hypercorn", "granian", "daphne"]
SAME = {
    "a client that closes stops a sleeping handler, and a stream": [
        "a client that closes or resets stops a sleeping handler",
        "… before the first byte of a stream, and in the middle",
    ]
}
IN_OTHER_WORDS = {"shutdown is noticed"}


def table(page: str) -> dict[str, dict[str, str]]:
    """Return the table of a page that has a column for each server, by row and column."""
    rows = [
        [cell.strip().replace("*", "") for cell in line.strip("|").split("|")]
        for line in text_of(page).splitlines()
        if line.startswith("|")
    ]
    begin = next(place for place, row in enumerate(rows) if {*SERVERS} <= {*row})
    heading = rows[begin]
    found: dict[str, dict[str, str]] = {}
    for row in rows[begin + 2 :]:
        if len(row) != len(heading):
            break
        found[row[0]] = dict(zip(heading, row, strict=True))
    return found


SHORT, LONG = table("README.md"), table("docs/servers.md")


@pytest.mark.parametrize("row", sorted({*SHORT} - IN_OTHER_WORDS))
def test_a_row_of_the_readme_is_one_of_the_long_table(row: str) -> None:
    """In the same words, as far as they go."""
    for there in SAME.get(row, [row]):
        cells = {server: LONG[there][server] for server in SERVERS}
        assert {s: cell for s, cell in cells.items() if not cell.startswith(SHORT[row][s])} == {}
