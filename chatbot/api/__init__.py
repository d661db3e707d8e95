"""Our own API: sessions, their history, and chat, whole or streamed.

It may import web, chat, llm, storage and the files beside the rooms, never openai. Begin with routes.py.
"""
