"""People's verdicts: the tasks they get, what they answer, and how far they agree."""
