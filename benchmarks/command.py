"""The command `assistly`, of this checkout."""

from assistly.cli import main

if __name__ == "__main__":
    main()
