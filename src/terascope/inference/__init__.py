"""The one page that every request takes."""
