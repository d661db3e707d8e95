"""OpenAI's door: its Responses, Conversations and Chat Completions API over the same conversations.

It may import web, chat, storage, llm and what lies below them. Begin reading at routes.py.
"""
