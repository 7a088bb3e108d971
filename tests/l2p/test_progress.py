"""How far the work is: lines in a file, and few of them."""

import pytest

from l2p import progress


def test_a_file_gets_a_line_at_the_end(capsys):
    assert list(progress.track(range(100), "drawing")) == list(range(100))
    captured = capsys.readouterr()
    assert captured.err == "drawing: 100 of 100, 0 s\n" and not captured.out


def test_a_file_gets_a_line_every_half_minute(capsys, monkeypatch):
    now = iter(range(0, 1000, 10))  # ten seconds an item
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.counted(8, "transfer", done=1) as advance:
        for step in range(7):
            advance(f"loss {step}" if step % 2 == 0 else "")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "transfer: 4 of 8, loss 2, 30 s",
        "transfer: 7 of 8, loss 4, 60 s",
        "transfer: 8 of 8, loss 6, 70 s",
    ]


@pytest.mark.parametrize(("items", "shown"), [([], True), (range(3), False)])
def test_nothing_is_told_of_nothing_or_where_it_is_not_asked_for(capsys, items, shown):
    assert list(progress.track(items, "drawing", shown=shown)) == list(items)
    captured = capsys.readouterr()
    assert not captured.err and not captured.out
