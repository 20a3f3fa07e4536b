"""These tests look at what a report says, not at how much text it was measured on."""

from tests.less_text import measured_on_less_text as measured_on_less_text
