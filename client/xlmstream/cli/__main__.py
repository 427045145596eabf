"""`python -m xlmstream.cli`: the same as the `xlmstream` command."""

import sys

from xlmstream.cli import main

sys.exit(main())
