"""The pages, one module each: what is read, and what a form changes."""
