"""What several tests share: small models and data, scripted servers, and processes that tests start."""
