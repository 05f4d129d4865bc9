"""From a model's own instructions to data worth training on."""
