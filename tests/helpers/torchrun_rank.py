"""What torchrun runs as a rank in forked starts: the program itself, and then the end of the process, with its code.

`--run-path` alone would let a rank wait for torchrun to fetch a return value, also while torchrun waits for its end.
"""

import os
import sys
import threading

from tests.helpers.warm import execute

code = 0
try:
    execute(sys.argv[1:])
except SystemExit as end:
    code = end.code if isinstance(end.code, int) else int(end.code is not None)
sys.stdout.flush()
sys.stderr.flush()
if code:
    os._exit(code)
last = threading.Timer(2.0, os._exit, [0])
last.daemon = True
last.start()
