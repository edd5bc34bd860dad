"""Racers that start at one moment, as threads of this process or as processes of their own."""
