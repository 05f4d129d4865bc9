"""The one client of every HTTP service: what is asked, how fast, and what counts as an answer."""
