"""Stores conversations in SQLite. The only room that uses SQL; its statements are in schema.sql.

It imports errors, ids and records, and no other room. Begin reading at store.py.
"""
