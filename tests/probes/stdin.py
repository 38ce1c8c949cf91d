import sys

print(input("name? "))
print(repr(sys.stdin.readline()), sys.stdin.buffer.read(), sys.stdin.encoding)
print(input())
