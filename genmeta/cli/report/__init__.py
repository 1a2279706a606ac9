"""`genmeta report`: run folders as one page."""
