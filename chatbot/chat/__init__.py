"""The domain: sessions, trees of turns, replies while they are written and after. No HTTP, no SQL.

It imports llm, storage and what stands at the top level. Begin reading at reply.py.
"""
