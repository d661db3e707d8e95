"""A chatbot backend: sessions, history and resumable streaming in front of any OpenAI-compatible LLM."""

__version__ = "1.0.0"
