"""What a Python program is made of: objects, attributes, generators, dictionaries, strings, floats, big numbers."""

import sys


class Node:
    def __init__(self, value):
        self.value = value
        self.left = self.right = None

    def insert(self, value):
        node = self
        while True:
            side = "left" if value < node.value else "right"
            child = getattr(node, side)
            if child is None:
                setattr(node, side, Node(value))
                return
            node = child

    def walk(self):
        if self.left:
            yield from self.left.walk()
        yield self.value
        if self.right:
            yield from self.right.walk()


def tree(count):
    seed, root = 12345, Node(1 << 30)
    for _ in range(count):
        seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
        root.insert(seed)
    return sum(i * value for i, value in enumerate(root.walk())) % 1000003


def primes(limit):
    sieve = bytearray([1]) * limit
    for i in range(2, int(limit**0.5) + 1):
        if sieve[i]:
            sieve[i * i :: i] = bytes(len(range(i * i, limit, i)))
    return sum(i for i in range(2, limit) if sieve[i])


def words(text):
    counts = {}
    for word in text.split():
        counts[word] = counts.get(word, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:20]


def logistic(count):
    x, total = 0.5, 0.0
    for i in range(count):
        x = 3.7 * x * (1.0 - x)
        total += x if i & 1 else -x
    return repr(total)


text = " ".join(f"w{i * i % 997}" for i in range(4000))
for turn in range(int(sys.argv[1])):
    print(tree(400), primes(20000), logistic(8000), words(text)[turn % 20], 7 ** (500 + turn) % 1000007)
