"""What people make of models' texts: tasks out, answers in, one opinion of several, and shards to train on."""
