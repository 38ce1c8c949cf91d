def declare() -> undefined_name if False else int:  # noqa: F821
    """Evaluated here, unless a __future__ of the runner leaked into this code."""


print(declare.__annotations__)
print(type(eval("1 / 2")), compile("x: 1", "<text>", "exec").co_flags & 0x1000000)
