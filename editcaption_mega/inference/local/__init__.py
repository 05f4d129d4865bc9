"""Generation in this process, from a Hugging Face folder."""
