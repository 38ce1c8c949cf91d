import runpy
import sys

print(runpy.run_path("argv.py", run_name="other")["sys"] is sys)
runpy.run_module("package", run_name="__main__", alter_sys=True)
runpy.run_path("exits.py", run_name="__main__")
