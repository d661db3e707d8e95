"""The domain: sessions, the tree of their turns, and replies while they are written and after. No HTTP, no SQL.

It may import llm, storage and what stands at the top level. Begin with reply.py, whose head tells a reply's life.
"""
