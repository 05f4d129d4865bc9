"""What a configuration needs and how fast it runs, told before any GPU is asked for."""
