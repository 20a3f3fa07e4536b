"""The report page: one HTML file that holds everything, and loads nothing."""
