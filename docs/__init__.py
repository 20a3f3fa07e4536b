"""The documentation's pages, and the code that draws and builds them."""
