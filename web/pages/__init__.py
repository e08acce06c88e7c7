"""One module for each page: its context (the template's contract) and the handler that fills it."""
