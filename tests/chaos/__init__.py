"""What the chaos is made of: an LLM that fails at random, visitors who do, and the tree that they expect."""
