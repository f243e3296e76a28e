"""Terms that are refused, and what refusing them may cost."""

from __future__ import annotations

from typing import Any

import pytest

from barnacle_trio.etf import DecodeError, decode

V = b"\x83"


def refused(data: bytes, match: str | None = None, **options: Any) -> None:
    with pytest.raises(DecodeError, match=match):
        decode(data, **options)
