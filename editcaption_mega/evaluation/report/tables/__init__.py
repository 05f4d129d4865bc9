"""The tables of a report, and the forms that they are printed in."""
