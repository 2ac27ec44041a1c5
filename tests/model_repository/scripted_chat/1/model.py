import sys
from pathlib import Path

# The repository's root: the test double is no part of the package. Links are followed, so that an
# entry elsewhere may link to this folder, or to the one that it is in.
sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

from tests.support.scripted.model import TritonPythonModel  # noqa: F401
