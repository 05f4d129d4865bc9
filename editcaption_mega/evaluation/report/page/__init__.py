"""The page of a report: what is drawn, and the HTML that holds it."""
