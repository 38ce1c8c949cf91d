import sys
import warnings

print(sys.flags)
print(sys.warnoptions, sys._xoptions, warnings.filters)
print(sys.stdout.encoding, sys.stdout.errors, sys.stdout.line_buffering, sys.stderr.errors)
