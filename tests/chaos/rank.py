"""What torchrun runs as a rank in forked starts: the launch script, and then the end of the process, with its code.

`--run-path` alone would let a rank wait for torchrun to fetch a return value, also while torchrun waits for its end.
"""

import os
import runpy
import sys
import threading

script, *arguments = sys.argv[1:]
sys.argv = [script, *arguments]
code = 0
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    code = end.code if isinstance(end.code, int) else int(end.code is not None)
sys.stdout.flush()
sys.stderr.flush()
if code:
    os._exit(code)
last = threading.Timer(2.0, os._exit, [0])
last.daemon = True
last.start()
