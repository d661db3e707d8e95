"""The domain: sessions, trees of turns, running and stored replies. No HTTP, no SQL.

It imports llm, storage and the top-level files. Begin reading at reply.py.
"""
