"""What every HTTP request uses: connections, keys and origins, bodies, slow readers, health, metrics.

May import chat, llm, storage and the files beside the rooms; the doors (api, openai) are built on it.
Begin reading at middleware.py; connection.py is the layer below it.
"""
