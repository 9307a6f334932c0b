"""Compiled, where the wheel was built so: see token_text.c."""

from collections.abc import Buffer

def numbers(text: Buffer, to: Buffer, /) -> int: ...
