"""`python -m rlaif` is the same as `rlaif`."""

from rlaif.cli.main import main

if __name__ == "__main__":
    main()
