"""How good an instruction is: columns from judges, from agreement, and from a model's own likelihoods."""
