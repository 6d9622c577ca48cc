"""What a PromQL expression reads: names and labels, found by a parser that is Prometheus's grammar."""

from collections.abc import Iterator
from typing import Any

import promql_parser

_INSIDE = ("lhs", "rhs", "expr", "param", "vector_selector")


def parse(expression: str) -> Any:
    """The tree. Grafana's own variables stand for something here. Raises ValueError."""
    return promql_parser.parse(expression.replace("$__rate_interval", "5m"))


def read(expression: str) -> set[tuple[str, str]]:
    """Series and labels of theirs that are named: a label that something is grouped by is one of each series."""
    tree = parse(expression)
    found = set()
    for node in _nodes(tree):
        if isinstance(node, promql_parser.VectorSelector):
            found.add((node.name, ""))
            found |= {(node.name, matcher.name) for matcher in node.matchers.matchers}
        elif isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            names = {inner.name for inner in _nodes(node.expr) if isinstance(inner, promql_parser.VectorSelector)}
            found |= {(name, label) for name in names for label in node.modifier.labels}
    return found


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    inside = [getattr(node, name, None) for name in _INSIDE] + list(getattr(node, "args", None) or [])
    for each in inside:
        if each is not None and not isinstance(each, str):
            yield from _nodes(each)
