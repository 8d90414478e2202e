"""Rows times seeds: many ordinary builds, and the one table that says what differs and what does not.

A study has no scheduler and no state of its own. Every run is `build` into a folder of its own with one shared cache,
so what two runs have in common (data, a teacher) is made once, and the same command goes on after Ctrl-C.
"""
