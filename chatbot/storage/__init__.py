"""Keeps conversations in SQLite: the only room that speaks SQL, in the statements of schema.sql.

It imports errors, ids and records, and nothing of the other rooms. Begin reading at store.py.
"""
