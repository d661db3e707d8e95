"""The page, held to its promises in a real browser, against the real server and a scripted LLM."""
