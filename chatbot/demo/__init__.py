"""The demo: a small OpenAI-compatible server with an ELIZA in it, to try the chatbot without an LLM.

It imports nothing of the chatbot, which talks to it over HTTP like to any LLM. Begin with server.py.
"""
