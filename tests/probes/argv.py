import sys

print(sys.argv)
print(sys.orig_argv)
print(sys.path[0])
print(sys.executable, sys.prefix)
