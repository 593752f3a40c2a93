"""The start of a script in a process that cannot import this package, whatever is installed."""

WITHOUT_PACKAGE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hmba_hf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
try:
    import hmba_hf
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("the package can be imported")
"""
