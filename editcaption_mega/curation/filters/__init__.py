"""Which pairs of a set stay: rules on columns, thresholds from labels, quotas, and a page that shows what they did."""
