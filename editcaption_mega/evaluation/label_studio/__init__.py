"""Label Studio: people's verdicts and checked ground truth, as projects of a server."""
