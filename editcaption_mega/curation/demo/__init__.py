"""What the demonstration of data construction needs beside the steps: pairs whose truth is set aside, people who are
simulated by that truth, and what the steps were worth against it."""
