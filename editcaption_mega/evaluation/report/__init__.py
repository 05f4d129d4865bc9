"""The report: rows joined to items, items to numbers, numbers to tables and one page."""
