"""Shadows what the guard itself needs."""

MINE = "my dataclasses"
