"""Checks of the notebooks' exercises: a hint while unsolved, the failing case when wrong, never an exception.

One module a notebook. Lessons: all.
"""
