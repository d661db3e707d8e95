"""The room that asks LLM servers, which speak the OpenAI chat-completions API in any dialect.

It may import errors, records and config, and no other room. Begin at client.LLM.ask, then response.Answer.
"""
