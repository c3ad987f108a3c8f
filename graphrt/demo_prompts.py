# SPDX-License-Identifier: Apache-2.0
"""What the demo continues: beginnings of Python files that repeat themselves, as code does."""

PROMPTS = {
    "wrapper": '''\
class Wrapper:
    """A stream that passes everything on to another one."""

    def __init__(self, stream):
        self.stream = stream

    def read(self, size=-1):
        return self.stream.read(size)

    def readline(self, size=-1):
        return self.stream.readline(size)

    def write(self, ''',
    "load": '''\
def load(name):
    """Import a module, or return None."""
    try:
        import json
    except ImportError:
        json = None
    try:
        import zlib
    except ImportError:
        zlib = None
    try:
''',
    "main": """\
def main():
    args = parse_arguments()
    for path in args.paths:
        process(path)


if __name__ == "__main__":
""",
    "numbers": """\
class TestNumbers(unittest.TestCase):
    def test_add(self):
        self.assertEqual(add(1, 2), 3)
        self.assertRaises(TypeError, add, 1, "2")

    def test_sub(self):
        self.assertEqual(sub(2, 1), 1)
        self.assertRaises(TypeError, sub, 2, "1")

    def test_mul(self):
""",
    "walk": '''\
def walk(tree):
    """Yield all nodes of a tree."""
    for node in tree:
        yield node
        for child in node.children:
            yield child

def find(tree, name):
    """Find the node of a tree that has a name."""
    for node in''',
    "vector": """\
class Vector:
    def __add__(self, other):
        return Vector(self.x + other.x, self.y + other.y)

    def __sub__(self, other):
        return Vector(self.x - other.x, self.y - other.y)

    def __mul__(self, other):
""",
}
