"""What every HTTP request meets: connections, keys and origins, bodies, slow readers, health, metrics.

May import chat, llm, storage and the files beside the rooms; the doors (api, openai) are built on it.
Begin reading at middleware.py; what lies beneath it is connection.py.
"""
