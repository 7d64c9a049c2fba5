"""`python -m tokenwell` is the `tokenwell` command."""

from tokenwell.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
