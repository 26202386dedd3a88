"""`python -m kaito.cli`: the same as `kaito`."""

from kaito.cli import main

if __name__ == "__main__":
    main()
