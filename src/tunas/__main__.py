import sys

from tunas.cli import main

sys.exit(main())
