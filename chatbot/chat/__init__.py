"""The domain: sessions, trees of turns, replies while they are written and after. No HTTP, no SQL.

It imports llm, storage and the files beside the rooms. Begin reading at reply.py.
"""
