"""From what is executed to seconds: hardware, costs, the pipeline's schedule."""
