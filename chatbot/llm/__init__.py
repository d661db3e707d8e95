"""The room that asks LLM servers, which speak one of many dialects of the OpenAI chat-completions API.

It may import errors, records and config, and no other room. Begin at client.LLM.ask, then response.Answer.
"""
