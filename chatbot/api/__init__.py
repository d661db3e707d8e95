"""Our own API: sessions, their history, and chat, whole or streamed.

It may import web, chat, llm, storage and what stands at the top level, never openai. Begin with routes.py.
"""
