import pytest

from normsurgery.report.numbers import (
    duration,
    figure,
    file_size,
    memory_size,
    percent,
    short_count,
)


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (file_size, 0, "0 B"),
        (file_size, 999, "999 B"),
        (file_size, 1000, "1.0 kB"),
        (file_size, 999_999, "1.0 MB"),
        (file_size, 324_645_888, "325 MB"),
        (file_size, 7_300_000_000, "7.3 GB"),
        (file_size, None, "–"),
        (memory_size, 64 * 2**20, "64 MiB"),
        (memory_size, 2**20, "1.0 MiB"),
        (short_count, 768, "768"),
        (short_count, 124_439_808, "124.4 M"),
        (short_count, 999_960_000, "1.0 B"),
        (duration, 0.04, "0.0 s"),
        (duration, 59.94, "59.9 s"),
        (duration, 59.96, "1 min 00 s"),
        (duration, 185, "3 min 05 s"),
        (duration, 7800, "2 h 10 min"),
        (figure, 0.0, "0"),
        (figure, 2.9e-14, "2.9e-14"),
        (figure, 0.974, "0.974"),
        (figure, 12.34, "12.3"),
        (figure, 1234, "1,234"),
        (figure, 3.0, "3"),
        (figure, float("nan"), "nan"),
        (figure, float("inf"), "inf"),
        (figure, None, "–"),
        (percent, 1.0, "100 %"),
        (percent, 0.99999, "99.99 %"),
        (percent, 0.9955, "99.55 %"),
        (percent, None, "–"),
    ],
)
def test_numbers_read_as_written_here(function, value, text):
    assert function(value) == text
