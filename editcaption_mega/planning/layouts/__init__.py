"""The quick depths of a plan: layouts put together from the costs of pieces, one or all of them."""
