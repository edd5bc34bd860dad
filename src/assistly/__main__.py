"""`python -m assistly` is the command `assistly`."""

from assistly.cli import main

if __name__ == "__main__":
    main()
