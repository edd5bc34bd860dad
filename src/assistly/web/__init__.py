"""The page: a web application that shows a storage, and changes it if that is allowed."""
